"""Fires rules: those that match a file become tasks, once a file, rule and version, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from asynch.db import Connection, Row
from asynch.domain.rules import RetryStrategy
from asynch.domain.states import State
from asynch.service.lanes import ensure_lane
from asynch.service.rules import facts_of, matching
from asynch.store import actions as store
from asynch.store import files, news, rules
from asynch.store.actions import NewAction
from asynch.store.files import NewLane, NewWork
from asynch.store.rules import Rule

#: How a lane of actions is called, before its rule and version.
LANE = "action:"
_WEBHOOK, _LOCAL = 2, 3
_AT_ONCE = 8
#: An action that is not begun in so much time after it is due is given up.
_PATIENCE_S = 3 * 86_400


@dataclass(frozen=True, slots=True)
class Cause:
    """Why rules are fired: on whose behalf, and after which of them."""

    creator: str = ""
    trace_context: str = ""
    after: int | None = None  #: the rule whose action has succeeded; None: the file is complete
    output: Any = None  #: of that action


def fire(conn: Connection, *, tenant_id: int, file_id: int, cause: Cause) -> int:
    """Have done what the tenant's rules want of a file, and was not done before; how many actions that are.

    A file that is complete fires the rules that wait for no other; an action's success those that wait for its rule.
    """
    live = [rule for rule in rules.list_live(conn, tenant_id) if rule.spec.after_id == cause.after]
    file = files.find_file(conn, tenant_id=tenant_id, file_id=file_id) if live else None
    if file is None:
        return 0
    fired = [rule for rule in matching(live, facts_of(file), file["identity"]) if _insert(conn, file, rule, cause)]
    return len(fired)


def _insert(conn: Connection, file: Row, rule: Rule, cause: Cause) -> bool:
    lane = _lane(rule)
    if lane is None:
        return False
    tenant_id = file["tenant_id"]
    spec = rule.spec
    action = NewAction(file["id"], rule.id, rule.version, spec.action_name, spec.execute_mode, spec.target_url)
    action_id = store.insert_action(conn, tenant_id=tenant_id, action=action)
    if action_id is None:
        return False
    lane_id = ensure_lane(conn, tenant_id=tenant_id, lane=lane)
    work = NewWork(
        lane_id=lane_id,
        id=action_id,
        parent_id=file["id"],
        input_ref=spec.target_url if spec.execute_mode == _WEBHOOK else f"store:{file['key']}",
        payload=orjson.dumps(_payload(file, rule, action_id, cause), default=_plain).decode(),
        creator=cause.creator,
        delay_s=spec.delay_seconds,
        queue_timeout_s=_PATIENCE_S,
        trace_context=cause.trace_context,
    )
    files.insert_work(conn, work)
    news.announce(conn, {lane_id})
    return True


def _lane(rule: Rule) -> NewLane | None:
    """A lane for each version of a rule, as what it asks is the lane's; None for a mode that is not there yet."""
    spec = rule.spec
    name = f"{LANE}{rule.id}:{rule.version}"
    if spec.execute_mode == _WEBHOOK:
        target = urlsplit(spec.target_url)
        url = f"webhook+{target.scheme}://{target.netloc}"
    elif spec.execute_mode == _LOCAL and not spec.target_url.startswith("model:"):
        url = f"local:{spec.target_url}"
    else:
        return None
    pauses = RetryStrategy.parse(spec.retry_strategy).pauses_s()
    return NewLane(name, url, _AT_ONCE, spec.timeout_seconds, pauses)


def _payload(file: Row, rule: Rule, action_id: int, cause: Cause) -> dict[str, Any]:
    """What the executor needs: options of a processor, or what a receiver is told."""
    spec = rule.spec
    if spec.execute_mode == _LOCAL:
        return {"options": orjson.loads(spec.options)}
    told = {"id": str(action_id), "rule": str(rule.id), "name": spec.action_name, "type": spec.action_type}
    return {
        "type": "file.completed",
        "timestamp": file["updated_at"].isoformat(),
        "action": told | {"version": rule.version, "input": cause.output},
        "file": dict(file),
    }


def _plain(value: Any) -> str:
    return str(value)


def action_document(row: Row) -> Mapping[str, Any]:
    """An action as the readers of its file see it."""
    status = row["status"]
    if status == "pending" and row["state"] is not None:
        failed = row["final"] and row["state"] in (State.FAILED, State.CANCELLED)
        status = "failed" if failed else "processing" if row["state"] == State.RUNNING else "pending"
    return {
        "task_id": str(row["id"]),
        "rule": str(row["rule_id"]),
        "version": row["version"],
        "name": row["action_name"],
        "mode": row["execute_mode"],
        "target": row["target_url"],
        "status": status,
        "output": row["output"],
        "error": row["error_msg"] or (row["task_error"] or "" if status == "failed" else ""),
        "created_at": row["created_at"],
        "completed_at": row["completed_at"],
    }
