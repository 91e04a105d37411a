"""Publishes in the database itself, where no broker is set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from asynch import db
from asynch.executors import Call, Done, Order
from asynch.store import actions


@dataclass(frozen=True, slots=True)
class TopicExecutor:
    """Leaves messages in asynch_message for whoever reads their topic."""

    pool: db.Pool

    def run(self, order: Order, out: BinaryIO, call: Call) -> Done:  # noqa: ARG002 - there is no result, nothing to cut
        """Publish the payload to the topic that is the order's input. DatabaseDown."""
        with db.transaction(self.pool) as conn:
            actions.insert_message(
                conn,
                tenant_id=order.owner_id,
                action_id=int(order.task_id),
                topic=order.input_ref or "",
                body=order.payload or "{}",
            )
        return Done()
