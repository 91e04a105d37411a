"""Results of actions that others post, behind the signed link that their message brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asynch import db
from asynch.db import Connection, Pool, Row
from asynch.errors import Conflict, NotFound
from asynch.secretbox import SecretBox
from asynch.service import actions, links
from asynch.service.actions import Cause
from asynch.store import actions as store
from asynch.store.actions import End, Try


@dataclass(frozen=True, slots=True)
class Result:
    """What became of what an action asked for."""

    success: bool
    output: Any = None
    error: str = ""


def check(box: SecretBox, action_id: int, query: Mapping[str, str]) -> int:
    """The tenant of a link; Forbidden when it was altered or is too old."""
    (tenant_id,) = links.check(box, links.RESULT, action_id, ("tenant",), query)
    return tenant_id


def post(pool: Pool, *, tenant_id: int, action_id: int, result: Result) -> None:
    """Take the result of an action: one that awaits it ends with it, another keeps its output.

    It may come before the delivery of its message is noted. NotFound; Conflict for a second one, and for one that
    comes after the end that an action had without it.
    """
    with db.transaction(pool) as conn:
        action = store.lock_action(conn, tenant_id=tenant_id, action_id=action_id)
        if action is None:
            raise NotFound("There is no such action.")
        if action["answered"]:
            raise Conflict("The action has its result.", code="result_repeated")
        if action["status"] == "failed" or action["late"]:
            raise Conflict("The action has ended without a result.", code="result_late")
        store.note_result(conn, tenant_id=tenant_id, action_id=action_id, output=result.output, error=result.error)
        if action["await_seconds"]:
            _end(conn, action, result)
        elif result.success:
            actions.add_tags(conn, action, result.output)


def _end(conn: Connection, action: Row, result: Result) -> None:
    tenant_id, action_id = action["tenant_id"], action["id"]
    tried = Try("completed") if result.success else Try("failed", error=result.error or "the result says so")
    store.log_try(conn, tenant_id=tenant_id, action_id=action_id, tried=tried)
    if result.success:
        actions.succeed(conn, action, output=result.output, cause=Cause())
    else:
        end = End("failed", tried.error, result.output)
        store.end_action(conn, tenant_id=tenant_id, action_id=action_id, end=end)
