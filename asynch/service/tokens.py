"""Bearer tokens of an issuer (JWT): which key proves one, what it must say, whom it stands for.

The algorithm follows from the type of the key; of a token's header only the key's id is read (RFC 8725, 3.1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from asynch.domain.principal import Principal, Role
from asynch.errors import AsynchError, UserError
from asynch.service.issuer import KeySet

#: how far the issuer's clock may be off, seconds
LEEWAY_S = 30
#: RFC 7518: a shared secret is no shorter than its hash (3.2), an RSA key no shorter than this many bits (3.3)
_SHORTEST_SECRET = 32
_SHORTEST_RSA = 2048
_MOST_KEYS = 100
_LONGEST_NAME = 128
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_INT = re.compile(r"[0-9]{1,19}")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class TokenRefused(AsynchError):
    """A token proves nothing; the text says why and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a signature is checked with, and the algorithms that fit it."""

    material: Any
    algorithms: tuple[str, ...]


FindKey = Callable[[str | None], Key | None]


@dataclass(frozen=True, slots=True)
class Verifier:
    """Believes the tokens of one issuer for one audience."""

    find_key: FindKey
    issuer: str
    audience: str
    tenant_claim: str

    def principal_of(self, token: str) -> Principal:
        """Whom the token stands for. TokenRefused, or IssuerDown while no key was ever had."""
        try:
            claims = self._claims(token)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as exc:
            raise TokenRefused(type(exc).__name__) from None
        role = claims.get("role")
        is_admin = role == "admin" or (isinstance(role, list) and "admin" in role)
        return Principal(_tenant(claims.get(self.tenant_claim)), _user(claims), Role.ADMIN if is_admin else Role.USER)

    def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        if "crit" in header:  # RFC 7515, 4.1.11: what is critical and not understood
            raise TokenRefused("critical header parameters")
        key = self.find_key(header.get("kid"))
        if key is None:
            raise TokenRefused("unknown key id")
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key.material,
            algorithms=list(key.algorithms),
            issuer=self.issuer,
            audience=self.audience,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "aud"]},
        )
        return claims


def keys_of(jwks_url: str, static: str) -> FindKey:
    """The way to the keys that `auth.jwt` names; nothing is fetched yet. UserError for a key that cannot be one."""
    return KeySet(jwks_url, read_key_set).find if jwks_url else _always(static_key(static))


def _always(key: Key) -> FindKey:
    return lambda _: key


def static_key(text: str) -> Key:
    """A public key as PEM, else a shared secret. UserError, which tells nothing of it."""
    if "-----BEGIN" not in text:
        if len(text.encode()) < _SHORTEST_SECRET:
            raise UserError(
                f"auth.jwt.key: expected a public key as PEM or a secret of at least {_SHORTEST_SECRET} bytes"
            )
        return Key(text.encode(), ("HS256", "HS384", "HS512"))
    try:
        key = _public(load_pem_public_key(text.strip().encode()))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if key is None:
        raise UserError(
            "auth.jwt.key: expected a public key as PEM: RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519"
        )
    return key


def read_key_set(document: bytes) -> Mapping[str | None, Key]:
    """The usable keys of a JWKS by their ids; shared secrets and private keys in one are no keys. ValueError."""
    try:
        listed = json.loads(document)["keys"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise ValueError("not a JSON object with a list of keys") from None
    found: dict[str | None, Key] = {}
    for entry in listed[:_MOST_KEYS] if isinstance(listed, list) else []:
        if isinstance(entry, dict) and (key := _published(entry)) is not None:
            kid = entry.get("kid")
            found.setdefault(kid if isinstance(kid, str) else None, key)
    if not found:
        raise ValueError("no usable key in it")
    return found


def _published(entry: Mapping[str, Any]) -> Key | None:
    if entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    try:
        key = _public(jwt.PyJWK({name: value for name, value in entry.items() if name != "alg"}).key)
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    wish = entry.get("alg")
    if key is None or wish is None:
        return key
    return Key(key.material, (wish,)) if wish in key.algorithms else None


def _public(material: object) -> Key | None:
    """A public key with its algorithms, None for one of another kind or too weak."""
    match material:
        case RSAPublicKey() if material.key_size >= _SHORTEST_RSA:
            return Key(material, ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
        case EllipticCurvePublicKey() if material.curve.name in _CURVES:
            return Key(material, (_CURVES[material.curve.name],))
        case Ed25519PublicKey():
            return Key(material, ("EdDSA",))
        case _:
            return None


def _tenant(claim: object) -> int:
    if isinstance(claim, str) and _INT.fullmatch(claim):
        claim = int(claim)
    if not isinstance(claim, int) or isinstance(claim, bool) or not 0 <= claim < 2**63:
        raise TokenRefused("no tenant")
    return claim


def _user(claims: Mapping[str, Any]) -> str:
    name = claims.get("sub") or claims.get("name") or ""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or _UNSTORABLE.search(name):
        raise TokenRefused("a user name that cannot be stored")
    return name
