"""Stored secrets as rows, whatever table they are in: found in key order, swapped for the same under another key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from asynch import db
from asynch.db import Connection
from asynch.domain import callbacks, sender


@dataclass(frozen=True, slots=True)
class Kind:
    """One column of secrets: how it is called, under which field they are sealed, and its two queries."""

    name: str
    field: str
    find: str
    swap: str


#: All there are but the canary: a table of secrets that is missing here cannot be read after its key is gone.
KINDS: Sequence[Kind] = (
    Kind("models", "api_key", "sealed_models", "reseal_model"),
    Kind("tasks", sender.FIELD, "sealed_tasks", "reseal_task"),
    Kind("uploads", sender.FIELD, "sealed_uploads", "reseal_upload"),
    Kind("webhooks", callbacks.FIELD, "sealed_webhook_keys", "reseal_webhook_key"),
)


@dataclass(frozen=True, slots=True, order=True)
class Sealed:
    """One stored secret."""

    tenant_id: int
    id: int
    owner_id: int = 0  #: the tenant for whom it is sealed
    token: str = field(default="", repr=False)


#: Comes before all others.
FIRST = Sealed(-(2**63), -(2**63))


def list_sealed(conn: Connection, kind: Kind, *, after: Sealed, most: int) -> list[Sealed]:
    """The next secrets of a kind, in key order."""
    found = db.rows(conn, kind.find, after_tenant=after.tenant_id, after_id=after.id, most=most)
    return [Sealed(r["tenant_id"], r["id"], r["owner_id"], r["token"]) for r in found]


def swap_sealed(conn: Connection, kind: Kind, old: Sealed, new: str) -> bool:
    """Put another token in the place of this one; False when it is not there any more."""
    return db.run(conn, kind.swap, tenant_id=old.tenant_id, id=old.id, old=old.token, new=new) > 0
