"""Puts stored secrets under the first of the configured keys, so that the others can go; it shows none of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from asynch import db
from asynch.db import Pool
from asynch.secretbox import SecretBox, SecretError
from asynch.service import schema
from asynch.store import facts, sealed
from asynch.store.sealed import FIRST, KINDS, Kind, Sealed

_BATCH = 500
#: a secret that changes hands at every pass is written by a program with other keys: then more passes do not help
_PASSES = 5


@dataclass(slots=True)
class Count:
    """What came of one kind of secrets."""

    name: str
    rotated: int = 0
    current: int = 0  #: sealed with the first key before
    unreadable: list[Sealed] = field(default_factory=list)
    #: changed by others each time they were looked at; they may be under any key
    unsettled: int = 0

    @property
    def good(self) -> bool:
        """Whether all of it can be read with the first key alone."""
        return not self.unreadable and not self.unsettled


def rotate(pool: Pool, box: SecretBox) -> Iterator[Count]:
    """Seal everything anew that is not under the first key, kind by kind; each secret is a transaction of its own.

    It may end at any point and begin again, beside everything else that runs. The canary comes last: while it is
    under an old key, no program starts without that key. UserError when these keys are not this database's.
    """
    schema.check_canary(pool, box)
    for kind in KINDS:
        yield _rotate_kind(pool, box, kind)
    yield _rotate_canary(pool, box)


def _rotate_kind(pool: Pool, box: SecretBox, kind: Kind) -> Count:
    """Pass over all of them until none was changed by others meanwhile."""
    rotated = 0
    for _ in range(_PASSES):
        count = _pass(pool, box, kind)
        rotated += count.rotated
        if not count.unsettled:
            break
    count.current = max(0, count.current - (rotated - count.rotated))  # without those of the passes before
    count.rotated = rotated
    return count


def _pass(pool: Pool, box: SecretBox, kind: Kind) -> Count:
    count, after = Count(kind.name), FIRST
    while True:
        with db.connection(pool) as conn:
            batch = sealed.list_sealed(conn, kind, after=after, most=_BATCH)
            for secret in batch:
                _rotate_one(conn, box, kind, secret, count)
        if not batch:
            return count
        after = batch[-1]


def _rotate_one(conn: db.Connection, box: SecretBox, kind: Kind, secret: Sealed, count: Count) -> None:
    try:
        new = box.resealed(secret.owner_id, kind.field, secret.token)
    except SecretError:
        count.unreadable.append(Sealed(secret.tenant_id, secret.id))
        return
    if new is None:
        count.current += 1
    elif sealed.swap_sealed(conn, kind, secret, new):
        count.rotated += 1
    else:
        count.unsettled += 1


def _rotate_canary(pool: Pool, box: SecretBox) -> Count:
    count = Count("canary")
    with db.transaction(pool) as conn:
        token = facts.find_fact(conn, schema.CANARY) or ""
        new = box.resealed_canary(token)
        if new is None:
            count.current = 1
        elif facts.swap_fact(conn, schema.CANARY, token, new):
            count.rotated = 1
        else:
            count.unsettled = 1
    return count
