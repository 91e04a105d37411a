"""Secrets at rest and signatures under the installation's keys; it stores nothing but the key file.

A token is bound to the tenant and field it was sealed for, so a row copied over another one does not open.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from asynch.durable import write_once
from asynch.errors import AsynchError, UserError

logger = logging.getLogger(__name__)

# stricter than Fernet, which skips characters that are not base64 and so takes many texts for one key
_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
_CANARY = (-1, "canary", "asynch")


class SecretError(AsynchError):
    """A stored secret cannot be read with the configured keys, or was sealed for another tenant or field."""


def is_key(text: str) -> bool:
    """Whether `text` is a Fernet key: 32 bytes as padded URL-safe base64, nothing else around it."""
    return _KEY.fullmatch(text) is not None


class SecretBox:
    """Seals with the first key, opens with any; every key is a Fernet key (ValueError if not)."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or not all(map(is_key, keys)):
            raise ValueError("a SecretBox needs at least one Fernet key, and nothing but Fernet keys")
        self._first = Fernet(keys[0])
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._keys = tuple(base64.urlsafe_b64decode(key) for key in keys)

    def seal(self, tenant_id: int, field: str, value: str) -> str:
        """Encrypt `value` for this tenant and field: ASCII text, different each time."""
        plain = json.dumps({"t": tenant_id, "k": field, "v": value})
        return self._fernet.encrypt(plain.encode()).decode()

    def open(self, tenant_id: int, field: str, token: str) -> str:
        """Give back what `seal` was given; SecretError when no key fits or the token belongs elsewhere."""
        try:
            sealed = json.loads(self._fernet.decrypt(token.encode(errors="replace")))
        except (InvalidToken, ValueError) as exc:
            raise SecretError(f"{field} of tenant {tenant_id}: unreadable with the configured keys") from exc
        if not isinstance(sealed, dict) or (sealed.get("t"), sealed.get("k")) != (tenant_id, field):
            raise SecretError(f"{field} of tenant {tenant_id}: sealed for another tenant or field")
        return str(sealed["v"])

    def resealed(self, tenant_id: int, field: str, token: str) -> str | None:
        """The same sealed with the first key, None when it is already; SecretError as `open`."""
        value = self.open(tenant_id, field, token)
        try:
            self._first.decrypt(token.encode())
        except InvalidToken:
            return self.seal(tenant_id, field, value)
        return None

    def resealed_canary(self, token: str) -> str | None:
        """The canary sealed with the first key, None when it is already."""
        return self.resealed(*_CANARY[:2], token)

    def canary(self) -> str:
        """A token to keep in the database, which tells later whether the keys still fit."""
        return self.seal(*_CANARY)

    def check_canary(self, token: str) -> bool:
        """Whether these keys can read a canary."""
        try:
            return self.open(*_CANARY[:2], token) == _CANARY[2]
        except SecretError:
            return False

    def signing_key(self, purpose: str) -> bytes:
        """32 bytes derived from the first key (HKDF-SHA256, RFC 5869); other purposes get unrelated ones."""
        return _derive(self._keys[0], purpose)

    def older_signing_keys(self, purpose: str) -> list[bytes]:
        """The same of all keys but the first: what was signed before they were put behind it."""
        return [_derive(key, purpose) for key in self._keys[1:]]

    def sign(self, purpose: str, message: bytes) -> str:
        """HMAC-SHA256 of `message`, URL-safe and without padding (43 characters)."""
        return _mac(self._keys[0], purpose, message)

    def verify(self, purpose: str, message: bytes, signature: str) -> bool:
        """Whether any of the keys signed this; in constant time, against guessing byte by byte."""
        given = signature.encode(errors="replace")
        return any(hmac.compare_digest(_mac(key, purpose, message).encode(), given) for key in self._keys)


@lru_cache(64)
def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"asynch " + purpose.encode()).derive(key)


def _mac(key: bytes, purpose: str, message: bytes) -> str:
    digest = hmac.digest(_derive(key, purpose), message, "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def load_keys(settings_keys: Sequence[str], key_file: Path, create: bool) -> list[str]:
    """The keys of the settings, else those of `key_file`, one a line.

    With `create` a missing file is made first, in a directory that is there. UserError when there is no key, or
    one is broken.
    """
    if settings_keys:
        return list(settings_keys)
    try:
        if create and not key_file.exists():
            write_once(key_file, f"{Fernet.generate_key().decode()}\n", mode=0o600)
        lines = key_file.read_text(encoding="ascii").split()
        _warn_if_shared(key_file)
    except FileNotFoundError as exc:
        raise UserError(f"no keys: secrets.keys is empty and {key_file} is not there") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise UserError(f"cannot read the keys in {key_file}: {_reason(exc)}") from exc
    if not lines or not all(map(is_key, lines)):
        raise UserError(f"{key_file} must hold one Fernet key a line, and nothing else")
    return lines


def _reason(exc: OSError | UnicodeDecodeError) -> str:
    return (exc.strerror or "I/O error") if isinstance(exc, OSError) else "not ASCII text"


def _warn_if_shared(key_file: Path) -> None:
    mode = key_file.stat().st_mode & 0o777
    if mode & 0o077:
        logger.warning("key file is open to others", extra={"path": str(key_file), "mode": f"{mode:04o}"})
