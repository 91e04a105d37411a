"""API keys: made, listed, revoked, and believed; a secret is told once and kept as its hash only."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable
from hashlib import sha256

from asynch import db
from asynch.db import Pool
from asynch.domain.principal import Principal, Role
from asynch.errors import UserError
from asynch.store import keys as store
from asynch.store.keys import Key, Proof

#: how long a key is believed without asking again, seconds: a revoked one stops within it
BELIEVED_S = 15.0
_REMEMBERED = 10_000
_TOKEN = re.compile(r"ak_([0-9a-f]{16})_([A-Za-z0-9_-]{20,128})")


def create_key(pool: Pool, tenant_id: int, name: str, *, admin: bool = False) -> tuple[str, str]:
    """Make a key: its id, and the token `ak_<id>_<secret>` that nobody can be told again."""
    if not name or "\0" in name:
        raise UserError("a key needs a name")
    if not 0 <= tenant_id < 2**63:
        raise UserError(f"tenant {tenant_id}: expected a 64-bit number that is not negative")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    role = Role.ADMIN if admin else Role.USER
    with db.transaction(pool) as conn:
        store.insert_key(conn, id=key_id, tenant_id=tenant_id, name=name, role=role, secret_hash=_hash(secret))
    return key_id, f"ak_{key_id}_{secret}"


def list_keys(pool: Pool) -> list[Key]:
    """All keys, revoked ones too, oldest first."""
    with db.connection(pool) as conn:
        return store.list_keys(conn)


def revoke_key(pool: Pool, key_id: str) -> None:
    """End a key; programs that believed it stop within BELIEVED_S. UserError when there is no living one."""
    with db.transaction(pool) as conn:
        if not store.revoke_key(conn, key_id):
            raise UserError(f"no key {key_id!r} that could be revoked")


def _hash(secret: str) -> str:
    # a plain hash is enough: the secret is 32 random bytes, so there is nothing to guess
    return sha256(secret.encode()).hexdigest()


class KeyRing:
    """The keys this process has met lately, so that a request costs no query; threads may share it."""

    def __init__(self, pool: Pool, *, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._known: dict[str, tuple[float, Proof]] = {}

    def principal_of(self, token: str) -> Principal | None:
        """Whom the token stands for, None when it proves nothing. Raises DatabaseDown."""
        match = _TOKEN.fullmatch(token)
        return _proven(match[2], self._remembered(match[1]) or self._looked_up(match[1])) if match else None

    def known_principal_of(self, token: str) -> Principal | None:
        """As `principal_of`, of what is remembered alone: costs no query, and a flood of wrong keys cannot stop it."""
        match = _TOKEN.fullmatch(token)
        return _proven(match[2], self._remembered(match[1])) if match else None

    def _remembered(self, key_id: str) -> Proof | None:
        until, proof = self._known.get(key_id, (0.0, None))
        return proof if self._clock() < until else None

    def _looked_up(self, key_id: str) -> Proof | None:
        with db.connection(self._pool) as conn:
            proof = store.find_proof(conn, key_id)
        if proof is None:
            self._known.pop(key_id, None)
            return None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key_id] = (self._clock() + BELIEVED_S, proof)
        return proof


def key_id_of(token: str) -> str:
    """The id in what looks like a key, for logs; empty for anything else."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else ""


def _proven(secret: str, proof: Proof | None) -> Principal | None:
    if proof is None or not hmac.compare_digest(_hash(secret), proof.secret_hash):
        return None
    return Principal(proof.tenant_id, proof.name, proof.role)
