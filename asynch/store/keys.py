"""API keys as rows; a secret itself is never here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from asynch import db
from asynch.db import Connection
from asynch.domain.principal import Role


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without what proves it."""

    id: str
    tenant_id: int
    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Proof:
    """What a presented key is compared with, and whom it stands for."""

    tenant_id: int
    name: str
    role: Role
    secret_hash: str  #: SHA-256, hex


def insert_key(conn: Connection, *, id: str, tenant_id: int, name: str, role: Role, secret_hash: str) -> None:
    """Add a key."""
    db.run(conn, "insert_key", id=id, tenant_id=tenant_id, name=name, role=role.value, secret_hash=secret_hash)


def find_proof(conn: Connection, key_id: str) -> Proof | None:
    """What proves a living key; None for an unknown or revoked one."""
    r = db.row(conn, "find_key", id=key_id)
    return Proof(r["tenant_id"], r["name"], Role(r["role"]), r["secret_hash"]) if r else None


def list_keys(conn: Connection) -> list[Key]:
    """All keys, revoked ones too, oldest first."""
    return [
        Key(r["id"], r["tenant_id"], r["name"], Role(r["role"]), r["created_at"], r["revoked_at"])
        for r in db.rows(conn, "list_keys")
    ]


def revoke_key(conn: Connection, key_id: str) -> bool:
    """Revoke a key; False when there is no living one of that id."""
    return db.row(conn, "revoke_key", id=key_id) is not None
