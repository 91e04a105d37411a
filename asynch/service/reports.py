"""What was done and what is being done: statistics, the op log, workers; all it writes is that somebody looked."""

from __future__ import annotations

from dataclasses import dataclass

from asynch import db
from asynch.db import Pool, Row
from asynch.domain.principal import Caller, Principal
from asynch.service import listing
from asynch.store import actions, oplog, stats, workers
from asynch.store.actions import LogFilter
from asynch.store.oplog import Operation, OpFilter
from asynch.store.stats import StatFilter


@dataclass(frozen=True, slots=True)
class Reports:
    """The use cases and the database they read."""

    pool: Pool

    def model_stats(self, tenant_id: int, wanted: StatFilter, *, limit: int, offset: int) -> listing.Found:
        """Calls started a day, creator and model: a page, newest day first, and how many rows in all."""
        with db.connection(self.pool) as conn:
            rows, total = stats.list_model_stats(
                conn, tenant_id=tenant_id, wanted=wanted, limit=limit, offset=offset, cap=listing.TOTAL_CAP + 1
            )
        return listing.found(rows, total)

    def biz_stats(self, tenant_id: int, wanted: StatFilter, *, limit: int, offset: int) -> listing.Found:
        """Tasks created a day, creator and bizName, as `model_stats`."""
        with db.connection(self.pool) as conn:
            rows, total = stats.list_biz_stats(
                conn, tenant_id=tenant_id, wanted=wanted, limit=limit, offset=offset, cap=listing.TOTAL_CAP + 1
            )
        return listing.found(rows, total)

    def op_logs(self, asker: Principal, tenant_id: int, wanted: OpFilter, *, limit: int, offset: int) -> listing.Found:
        """A page of a tenant's op log, newest first, and the total. Forbidden unless an admin asks."""
        asker.expect_admin()
        with db.connection(self.pool) as conn:
            rows, total = oplog.list_op_logs(
                conn, tenant_id=tenant_id, wanted=wanted, limit=limit, offset=offset, cap=listing.TOTAL_CAP + 1
            )
        return listing.found(rows, total)

    def note_look(self, caller: Caller, op_type: str, operation: Operation) -> None:
        """Write into the op log that somebody looked at something. DatabaseDown."""
        with db.transaction(self.pool) as conn:
            oplog.insert_op_logs(conn, caller, op_type, [operation])

    def tries(self, asker: Principal, tenant_id: int, wanted: LogFilter, *, limit: int, offset: int) -> listing.Found:
        """A page of the tries of a tenant's actions, as `op_logs`."""
        asker.expect_admin()
        with db.connection(self.pool) as conn:
            rows, total = actions.list_tries(
                conn, tenant_id=tenant_id, wanted=wanted, limit=limit, offset=offset, cap=listing.TOTAL_CAP + 1
            )
        return listing.found(rows, total)

    def workers(self, asker: Principal) -> list[Row]:
        """The living workers of all hosts, oldest first. Forbidden unless an admin asks."""
        asker.expect_admin()
        with db.connection(self.pool) as conn:
            return workers.list_workers(conn)
