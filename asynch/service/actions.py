"""Fires rules: those that match a file become tasks, once a file, rule and version; and what comes of those tasks.

All of it in the caller's transaction: the fact that fires a rule and the action are both there, or neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from asynch.db import Connection, Row
from asynch.domain import callbacks
from asynch.domain.answers import MOST_TAGS, tags_in
from asynch.domain.rules import RetryStrategy
from asynch.domain.states import State
from asynch.service.lanes import AT_ONCE, SCHEDULE_S, SCHEME, STORED, ensure_lane
from asynch.service.rule_specs import MODEL, PROCESSOR, QUEUE, WEBHOOK
from asynch.service.rules import facts_of, live_rules, matching
from asynch.store import actions as store
from asynch.store import files, models, news, tasks
from asynch.store.actions import End, NewAction
from asynch.store.files import NewLane, NewWork
from asynch.store.rules import Rule, RuleSpec

#: Files made through more files than this fire nothing.
MOST_GENERATIONS = 4
#: How a lane of actions is called, before its target.
LANE = "action:"
#: The target of what is published.
BROKER = "broker:"
#: A receiver or broker has no longer than this for its answer, seconds: who hangs holds up the others of its lane.
_DELIVERY_S = 60
#: An action that is not begun in so much time after it is due is given up.
_PATIENCE_S = 3 * 86_400


@dataclass(frozen=True, slots=True)
class Cause:
    """Why rules are fired: on whose behalf, and after which of them."""

    creator: str = ""  #: empty: the file's
    trace_context: str = ""
    after: int | None = None  #: the rule whose action has succeeded; None: the file is complete
    output: Any = None  #: of that action
    made: int | None = None  #: the file that it made
    maker: int | None = None  #: the rule that made the file, which does not fire on it


def fire(conn: Connection, *, tenant_id: int, file_id: int, cause: Cause) -> int:
    """Have done what the tenant's rules want of a file, and was not done before; how many actions that are.

    A file that is complete fires the rules that wait for no other, and those that were made after what they wait for
    had succeeded; an action's success fires those that wait for its rule.
    """
    live = live_rules(conn, tenant_id)
    fired = _fire(conn, tenant_id, file_id, cause, live)
    if cause.after is None and any(rule.spec.after_id is not None for rule in live):
        versions = {rule.id: rule.version for rule in live}
        for done in store.list_completed(conn, tenant_id=tenant_id, file_id=file_id):
            if versions.get(done["rule_id"]) == done["version"]:
                then = replace(cause, after=done["rule_id"], output=done["output"], made=done["made"])
                fired += _fire(conn, tenant_id, file_id, then, live)
    return fired


def _fire(conn: Connection, tenant_id: int, file_id: int, cause: Cause, live: Sequence[Rule]) -> int:
    waiting = [rule for rule in live if rule.spec.after_id == cause.after and rule.id != cause.maker]
    file = files.find_file(conn, tenant_id=tenant_id, file_id=file_id) if waiting else None
    if file is None or file["generation"] > MOST_GENERATIONS:
        return 0
    made = None if cause.made is None else files.find_file(conn, tenant_id=tenant_id, file_id=cause.made)
    matched = {rule.id: rule for rule in matching(waiting, facts_of(file), file["identity"])}
    wanted = [_action(rule, file) for rule in matched.values()]
    fired = store.insert_actions(conn, tenant_id=tenant_id, actions=wanted) if wanted else {}
    specs = [matched[rule_id].spec for rule_id in fired]
    lanes = _models_lanes(conn, tenant_id, {spec.target_url for spec in specs if _is_models(spec)})
    work = []
    for rule_id, action_id in fired.items():
        rule = matched[rule_id]
        lane = _lane_name(rule.spec)
        if lane not in lanes and not _is_models(rule.spec):
            lanes[lane] = _lane(conn, tenant_id, rule.spec)
        if lane in lanes:
            work.append(_work(rule, action_id, lanes[lane], file, made, cause))
        else:
            missing = f"there is no model {rule.spec.target_url.removeprefix(MODEL)}"
            store.end_action(conn, tenant_id=tenant_id, action_id=action_id, end=End("failed", missing))
    if work:
        files.insert_work(conn, *work)
        news.announce(conn, {each.lane_id for each in work})
    return len(fired)


def _action(rule: Rule, file: Row) -> NewAction:
    spec = rule.spec
    waits = spec.await_result and spec.execute_mode != PROCESSOR
    return NewAction(
        file["id"],
        rule.id,
        rule.version,
        spec.action_name,
        spec.execute_mode,
        spec.target_url,
        await_seconds=spec.timeout_seconds if waits else 0,
    )


def _work(rule: Rule, action_id: int, lane_id: int, file: Row, made: Row | None, cause: Cause) -> NewWork:
    spec = rule.spec
    return NewWork(
        lane_id=lane_id,
        id=action_id,
        parent_id=file["id"],
        input_ref=_input(spec, made or file),
        payload=orjson.dumps(_payload(rule, action_id, file, made, cause), default=_plain).decode(),
        creator=cause.creator or file["creator"],
        delay_s=spec.delay_seconds,
        queue_timeout_s=_PATIENCE_S,
        trace_context=cause.trace_context,
        timeout_s=_call_s(spec),
        schedule_s=_pauses_s(spec),
    )


def _is_models(spec: RuleSpec) -> bool:
    return spec.execute_mode == PROCESSOR and spec.target_url.startswith(MODEL)


def _lane_name(spec: RuleSpec) -> str:
    """One for each target: a receiver, a processor, a model, and one for all topics."""
    if _is_models(spec):
        return spec.target_url
    if spec.execute_mode == WEBHOOK:
        return LANE + callbacks.receiver_of(spec.target_url)
    return LANE + ("topic" if spec.execute_mode == QUEUE else spec.target_url)


def _lane(conn: Connection, tenant_id: int, spec: RuleSpec) -> int:
    """The lane of what is no model's."""
    name = _lane_name(spec)
    if spec.execute_mode == WEBHOOK:
        url = f"webhook+{callbacks.receiver_of(spec.target_url)}"
    else:
        url = BROKER if spec.execute_mode == QUEUE else f"{SCHEME}:{spec.target_url}"
    schedule_s = SCHEDULE_S if spec.execute_mode == PROCESSOR else callbacks.SCHEDULE_S  # where its rule says nothing
    lane = NewLane(name, url, AT_ONCE, callbacks.TIMEOUT_S, schedule_s)  # an action has a time-out of its own
    return ensure_lane(conn, tenant_id=tenant_id, lane=lane)


def _models_lanes(conn: Connection, tenant_id: int, targets: Iterable[str]) -> dict[str, int]:
    """The models' own lanes by target, so that their limits hold, without those that are gone.

    Entered as a creator does, all at once: who deletes a model, or counts, does so before this, or finds what is added
    here.
    """
    found = {}
    for target in targets:
        if model := models.find_model(conn, tenant_id=tenant_id, id=None, name=target.removeprefix(MODEL)):
            found[target] = model
    if found:
        tasks.share_lanes(conn, {model.lane_id for model in found.values()}, tenant_id=tenant_id)
    left = {t: models.find_model(conn, tenant_id=tenant_id, id=model.id, name=None) for t, model in found.items()}
    return {target: model.lane_id for target, model in left.items() if model is not None}


def _input(spec: RuleSpec, file: Row) -> str | None:
    """Where the work finds what it works on: a topic, a receiver, a stored file; a model is told in its payload."""
    if spec.execute_mode != PROCESSOR:
        return spec.target_url
    return None if _is_models(spec) else f"{STORED}{file['key']}"


def _call_s(spec: RuleSpec) -> int | None:
    """How long one call may take: a model has a time-out of its own, and a receiver only takes the message."""
    if _is_models(spec):
        return None
    return spec.timeout_seconds if spec.execute_mode == PROCESSOR else min(spec.timeout_seconds, _DELIVERY_S)


def _pauses_s(spec: RuleSpec) -> tuple[int, ...] | None:
    return RetryStrategy.parse(spec.retry_strategy).pauses_s() if spec.retry_strategy else None


def _payload(rule: Rule, action_id: int, file: Row, made: Row | None, cause: Cause) -> dict[str, Any]:
    """What the executor needs: options of a processor, or what a receiver or a model is told."""
    spec = rule.spec
    options = orjson.loads(spec.options)
    if spec.execute_mode == PROCESSOR and not _is_models(spec):
        return {"options": options}
    told = {"id": str(action_id), "rule": str(rule.id), "name": spec.action_name, "type": spec.action_type}
    return {
        "type": "file.completed",
        "timestamp": file["updated_at"].isoformat(),
        "action": told | {"version": rule.version, "input": cause.output},
        "file": dict(file),
        "made": None if made is None else dict(made),
        "options": options,
        "result_s": spec.timeout_seconds,
    }


def _plain(value: Any) -> str:
    return str(value)


def succeed(conn: Connection, action: Row, *, output: Any, cause: Cause, made: int | None = None) -> None:
    """An action is done: note it with its output, whose tags are the file's now, and fire what waits for its rule.

    One that has ended before stays as it is. `made` is the file that came of it.
    """
    tenant_id, file_id = action["tenant_id"], action["file_id"]
    end = End("completed", output=output, made=made)
    if not store.end_action(conn, tenant_id=tenant_id, action_id=action["id"], end=end):
        return
    add_tags(conn, action, output)
    output = action["output"] if output is None else output
    then = replace(cause, after=action["rule_id"], output=output, made=made)
    fire(conn, tenant_id=tenant_id, file_id=file_id, cause=then)


def add_tags(conn: Connection, action: Row, output: Any) -> None:
    """Write the tags of an action's answer to its file."""
    if tags := tags_in(output):
        files.add_tags(conn, tenant_id=action["tenant_id"], file_id=action["file_id"], tags=tags, most=MOST_TAGS)


def action_document(row: Row, *, for_admin: bool) -> Mapping[str, Any]:
    """An action as the readers of its file see it; others than admins see whose a URL is, and not what opens it."""
    status, target = row["status"], row["target_url"]
    if row["execute_mode"] == WEBHOOK and not for_admin:
        target = callbacks.receiver_of(target)
    if status == "pending" and row["state"] is not None:
        failed = row["final"] and row["state"] in (State.FAILED, State.CANCELLED)
        status = "failed" if failed else "processing" if row["state"] == State.RUNNING else "pending"
    return {
        "task_id": str(row["id"]),
        "rule": str(row["rule_id"]),
        "version": row["version"],
        "name": row["action_name"],
        "mode": row["execute_mode"],
        "target": target,
        "status": status,
        "output": row["output"],
        "error": row["error_msg"] or (row["task_error"] or "" if status in ("failed", "pending") else ""),
        "created_at": row["created_at"],
        "due_at": row["due_at"] if status == "pending" else None,
        "completed_at": row["completed_at"],
    }
