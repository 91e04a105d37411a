"""The schema's life: applied by `asynch migrate`, compared with the program at every start."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path
from time import monotonic, sleep
from typing import LiteralString

from asynch import db
from asynch.errors import UserError
from asynch.secretbox import SecretBox
from asynch.service import indexes
from asynch.store import facts

SCHEMA_VERSION = 9
#: The fact that tells whether keys fit.
CANARY = "secret_canary"
#: Key of the advisory lock that lets one host migrate at a time.
_MIGRATE_LOCK = 0x6D696772617465
#: How long one table is waited for, try after try, ms: who wants it meanwhile waits behind us. Below deadlock_timeout
#: (1 s) it is always the migration that gives way; above it an autovacuum is ended for us.
_TABLE_WAITS_MS = (300, 300, 600, 600, 1200, 1200, 2500)
#: How long they are tried in all, and the pause between, in which the others come through, seconds.
_PATIENCE_S = 60.0
_PAUSE_S = 0.2
#: Tables that model-asynch calls the same; without asynch_meta beside them they are its own.
_SHARED_NAMES = ("asynch_models", "asynch_task", "asynch_op_log", "asynch_model_stat")


def update_sql() -> LiteralString:
    """The text of update.sql: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "update.sql", package.parent / "update.sql"
    file = installed if installed.exists() else checkout
    text: LiteralString = file.read_text(encoding="utf-8")
    return text


def migrate(pool: db.Pool) -> None:
    """Apply update.sql in one transaction; safe to repeat, from two hosts at once, and while everything runs.

    Indexes of large tables are built before, beside all work. UserError when the tables are of another program
    (model-asynch) or of a newer asynch, or in use all the time: nothing but such indexes is changed then.
    """
    with db.transaction(pool) as conn:
        _refuse_strangers(conn)
    indexes.build(pool, update_sql())
    deadline = monotonic() + _PATIENCE_S
    for wait_ms in chain(_TABLE_WAITS_MS, repeat(_TABLE_WAITS_MS[-1])):
        try:
            _apply(pool, wait_ms)
            break
        except (db.LockTimeout, *db.Collision) as exc:
            if monotonic() > deadline:
                raise UserError(
                    "a table is in use all the time, as by a backup; nothing was changed, try again later"
                ) from exc
            sleep(_PAUSE_S)


def _apply(pool: db.Pool, wait_ms: int) -> None:
    with db.transaction(pool) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATE_LOCK,))
        _refuse_strangers(conn)
        conn.execute("SET LOCAL client_min_messages = warning")
        conn.execute("SELECT set_config('lock_timeout', %s, true)", (f"{wait_ms}ms",))
        conn.execute(update_sql())


def _refuse_strangers(conn: db.Connection) -> None:
    if _has_table(conn, "asynch_meta"):
        check_version(conn, at_least=0)
        return
    if theirs := [table for table in _SHARED_NAMES if _has_table(conn, table)]:
        raise UserError(
            f"this database holds tables of model-asynch ({', '.join(theirs)}); asynch needs a database of its own, "
            "nothing was changed"
        )


def _has_table(conn: db.Connection, name: str) -> bool:
    found = conn.execute("SELECT to_regclass(%s) IS NOT NULL AS there", (name,)).fetchone()
    return bool(found and found["there"])


def check_version(conn: db.Connection, *, at_least: int = SCHEMA_VERSION, newer: bool = False) -> None:
    """UserError unless the database's schema is one this program can start with.

    With `newer` a newer one will do: changes are additive, so what already runs goes on during an upgrade.
    """
    if not _has_table(conn, "asynch_meta"):
        raise UserError("the database has no asynch schema yet: run `asynch migrate`")
    version = int(facts.find_fact(conn, "schema_version") or 0)
    if version < at_least:
        raise UserError(f"the database has schema version {version}, {at_least} is needed: run `asynch migrate`")
    if version > SCHEMA_VERSION and not newer:
        raise UserError(f"the database has schema version {version}, newer than this program's {SCHEMA_VERSION}")


def check_canary(pool: db.Pool, box: SecretBox) -> None:
    """UserError unless these keys can read what this database holds; the first start leaves the canary."""
    with db.transaction(pool) as conn:
        token = facts.find_fact(conn, CANARY) or facts.remember(conn, CANARY, box.canary())
    if not box.check_canary(token):
        raise UserError("the configured secrets.keys (or secret.key) cannot read this database's secrets")


def check_store_id(pool: db.Pool, store_id: str) -> None:
    """UserError when the database knows another local store: its files would not be found here."""
    with db.transaction(pool) as conn:
        known = facts.remember(conn, "local_store_id", store_id)
    if known != store_id:
        raise UserError(
            "storage.local.dir is not the directory this database's results are in; "
            "share that directory, or use storage.backend minio on several hosts"
        )
