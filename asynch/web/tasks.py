"""/task: creating tasks, collecting their results, ending them and running them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from asynch.db import Row
from asynch.domain import rawjson
from asynch.domain.ids import number_of
from asynch.domain.states import State, status_of
from asynch.errors import Conflict, InvalidInput, Mistake, Refused, TooLarge
from asynch.service import documents
from asynch.service.creation import Created, Creation
from asynch.service.documents import Documents
from asynch.service.tasks import Change, Tasks
from asynch.store.creation import Once
from asynch.store.tasks import NewTask
from asynch.web import batches, metrics, parts
from asynch.web.auth import caller, creator, named_tenant, principal
from asynch.web.bodies import checked, read_body, read_json, read_query
from asynch.web.task_bodies import MAX_BATCH, RAW, Ids, ListIn, ManyIn, TaskIn, WhichTask

bp = Blueprint("tasks", __name__, url_prefix="/task")

_MAX_KEY = 255
_MOST_WAIT_S = 60


@bp.post("/createTask")
def create_task() -> ResponseReturnValue:
    """202 with the status URL; the same Idempotency-Key gives the same task again."""
    body = read_body(parts().settings.server.max_body)
    item = _task(body)
    created = _creation().create(creator(), item, _once(body))
    task_id = created.results[0]
    if isinstance(task_id, Refused):
        raise task_id
    metrics.note_created(created)
    pace = parts().paces.call_s(principal().tenant_id, item.model_name) if isinstance(item, NewTask) else None
    headers = {"Location": _documents().status_url(str(task_id)), "Retry-After": documents.ask_again(pace)}
    return _accepted(task_id, created.replayed), 202, headers | _replayed(created)


@bp.post("/createTaskBatch")
def create_task_batch() -> ResponseReturnValue:
    """202 with an id or an error for each task; the good ones are created even when others are bad."""
    body = read_body(parts().settings.server.max_batch_body)
    created = _creation().create_batch(creator(), _items(body), _once(body))
    metrics.note_created(created)
    listed = [
        {"index": n, "error": documents.refusal(_placed(n, r))}
        if isinstance(r, Refused)
        else {"index": n, "taskId": str(r)}
        for n, r in enumerate(created.results)
    ]
    return {"list": listed}, 202, _replayed(created)


@bp.post("/getTaskBatch")
def get_task_batch() -> ResponseReturnValue:
    """Items in the order asked, once each; those that never were and those that are gone apart."""
    asked = read_json(Ids)
    names = {task_id: number_of(task_id) for task_id in asked.task_ids}
    numbers = list(dict.fromkeys(names.values()))
    if asked.wait_seconds:
        _tasks().wait(principal().tenant_id, numbers, asked.wait_seconds)
    found = _tasks().fetch(principal().tenant_id, numbers, mark=_marks("getTaskBatch"))
    return {
        "list": [_documents().item(found.rows[n]) for n in numbers if n in found.rows],
        "missing": [name for name, n in names.items() if n not in found.gone and n not in found.rows],
        "gone": [name for name, n in names.items() if n in found.gone],
    }


@bp.get("/getTaskResult")
def get_task_result() -> ResponseReturnValue:
    """One item."""
    number = number_of(read_query(WhichTask).task_id)
    row = _found(number)
    if _marks("getTaskResult"):
        row = _tasks().fetch(principal().tenant_id, [number], mark=True).rows.get(number, row)
    return _documents().item(row)


@bp.post("/listTask")
def list_task() -> ResponseReturnValue:
    """A page of tasks, newest first."""
    asked = read_json(ListIn)
    tenant_id = named_tenant(asked.tenant_id)
    found = _tasks().search(tenant_id, asked.wanted(), limit=asked.page.page_size, offset=asked.page.offset)
    listed = [_documents().listed(row) for row in found.rows]
    if asked.include_payload:
        ids, limit = [row["id"] for row in found.rows], parts().settings.server.max_batch_body
        payloads = _tasks().payloads(tenant_id, ids, most_bytes=limit)
        for told, task_id in zip(listed, ids, strict=True):
            told["requestPayload"] = documents.raw(payloads.get(task_id))
    return {"list": listed, "total": found.total, "totalCapped": found.capped}


@bp.get("/<id:task_id>")
def task_status(task_id: str) -> ResponseReturnValue:
    """The status document; with `Prefer: wait=N` once it is final, or differs from the ETag that the caller has."""
    row, wait_s = _found(number_of(task_id)), _preferred_wait_s()
    headers = {"Cache-Control": "private, no-cache"}
    if wait_s is not None:
        headers["Preference-Applied"] = f"wait={wait_s}"
        has_it = request.if_none_match.contains_raw(documents.etag(row))
        if not row["final"] and (has_it or not request.if_none_match):
            row = _tasks().wait_for_change(row, wait_s, final=not has_it)
    headers["ETag"] = documents.etag(row)
    if request.if_none_match.contains_raw(headers["ETag"]):
        return "", 304, headers
    place = _tasks().place(row)
    if not row["final"]:
        headers["Retry-After"] = documents.retry_after(row, place)
    return _documents().status(row, place), 200, headers


@bp.get("/<id:task_id>/result")
def task_result(task_id: str) -> ResponseReturnValue:
    """303 to the file, or why there is none."""
    number = number_of(task_id)
    row = _found(number)
    if row["state"] in (State.SUCCEEDED, State.FETCHED):
        if _marks("result"):
            _tasks().fetch(principal().tenant_id, [number], mark=True)
        return "", 303, {"Location": _documents().result_url(row)}
    if row["final"]:
        raise Conflict(row["error_msg"] or "The task has no result.", code=row["error_code"] or "no_result")
    place = _tasks().place(row)
    headers = {"Retry-After": documents.retry_after(row, place), "Content-Location": _documents().status_url(task_id)}
    return _documents().status(row, place), 202, headers


def _preferred_wait_s() -> int | None:
    """RFC 7240: `Prefer: wait=N`, the first of several, and no longer than we do; None for what asks for no wait."""
    for preference in ",".join(request.headers.getlist("Prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            digits = value.strip().strip('"')
            return (
                min(int(digits), _MOST_WAIT_S) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
            )
    return None


@bp.post("/<id:task_id>/cancel")
def cancel_task(task_id: str) -> ResponseReturnValue:
    """The status document after it: cancelled, or processing until its call is cut, or unchanged if final."""
    return _documents().status(_tasks().cancel_one(caller(), number_of(task_id)))


@bp.post("/<id:task_id>/retry")
def retry_task(task_id: str) -> ResponseReturnValue:
    """The status document of a task that runs again; 409 unless it is finally failed or cancelled."""
    return _documents().status(_tasks().rerun_one(caller(), number_of(task_id)))


@bp.post("/cancelBatch")
def cancel_batch() -> ResponseReturnValue:
    """As cancel, for many."""
    asked = read_json(ManyIn)
    if asked.task_ids is None:
        return {"changed": _tasks().cancel_found(caller(), asked.wanted())}
    return _changed(asked.task_ids, _tasks().cancel)


@bp.post("/retryBatch")
def retry_batch() -> ResponseReturnValue:
    """As retry, for many; those that cannot run again stay as they are."""
    asked = read_json(ManyIn)
    if asked.task_ids is None:
        return {"changed": _tasks().rerun_found(caller(), asked.wanted())}
    return _changed(asked.task_ids, _tasks().rerun)


def _changed(task_ids: Sequence[str], change: Change) -> ResponseReturnValue:
    names = {task_id: number_of(task_id) for task_id in task_ids}
    numbers = list(dict.fromkeys(names.values()))
    outcome = change(caller(), numbers)
    return {
        "changed": len(outcome.changed),
        "list": [_brief(outcome.rows[n]) | {"changed": n in outcome.changed} for n in numbers if n in outcome.rows],
        "missing": [name for name, n in names.items() if n not in outcome.rows],
    }


def _brief(row: Row) -> dict[str, Any]:
    told = _documents().item(row)
    return {name: told[name] for name in ("taskId", "state", "status", "final")}


def _accepted(task_id: int, replayed: bool) -> dict[str, Any]:
    state, final = State.PENDING, False
    if replayed:
        state, final = _tasks().last_state(principal().tenant_id, task_id)
    return {
        "taskId": str(task_id),
        "state": state,
        "status": status_of(state, final),
        "statusUrl": _documents().status_url(str(task_id)),
    }


def _task(body: bytes) -> NewTask | Refused:
    """The task of a body; what is wrong with it is a result too, for the op log."""
    try:
        return _new_task(rawjson.members(rawjson.decode(body), raw=RAW, max_depth=_depth()))
    except InvalidInput as exc:
        return exc


def _new_task(values: Mapping[str, Any]) -> NewTask:
    """InvalidInput for what is no task, or would call back where nothing may be called."""
    return _calling_back(checked(TaskIn, values).new_task())


def _calling_back(task: NewTask) -> NewTask:
    if task.callback_url is None:
        return task
    return task._replace(callback_url=parts().webhooks.check(task.callback_url, "#/callbackUrl"))


def _items(body: bytes) -> list[NewTask | Refused]:
    """The tasks of a batch; what is wrong with one is its own."""
    text, depth, limit = rawjson.decode(body), _depth(), parts().settings.server.max_body
    found: Sequence[NewTask | Refused] | None = batches.read(body, max_depth=depth)
    if found is None:
        values = rawjson.elements(text, "tasks", raw=RAW, max_depth=depth, max_items=MAX_BATCH)
        found = [_item(n, value) for n, value in enumerate(values)]
    return [task if isinstance(task, Refused) else _allowed(task, limit) for task in found]


def _item(index: int, value: Any) -> NewTask | Refused:
    """One task of a batch as it was taken apart."""
    if isinstance(value, InvalidInput):
        prefix = _place(index)
        return InvalidInput([Mistake("#" + m.pointer.removeprefix(prefix), m.detail) for m in value.mistakes])
    if not isinstance(value, Mapping):
        return InvalidInput([Mistake("#", "expected an object")])
    try:
        return checked(TaskIn, value).new_task()
    except InvalidInput as exc:
        return exc


def _allowed(task: NewTask, limit: int) -> NewTask | Refused:
    """A task of a batch, which must not be larger than one that comes alone."""
    if task.payload is not None and len(task.payload.encode()) > limit:
        return TooLarge(f"A task may have at most {limit} bytes.", limitBytes=limit)
    try:
        return _calling_back(task)
    except InvalidInput as exc:
        return exc


def _placed(index: int, refused: Refused) -> Refused:
    """The refusal of a batch's item with pointers from the body's root."""
    if not isinstance(refused, InvalidInput):
        return refused
    found = [Mistake(_place(index) + m.pointer.removeprefix("#"), m.detail) for m in refused.mistakes]
    return InvalidInput(found, code=refused.code)


def _place(index: int) -> str:
    return f"#/tasks/{index}"


def _once(body: bytes) -> Once | None:
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    key = given[1:-1] if len(given) >= 2 and given[0] == given[-1] == '"' else given
    if not 1 <= len(key) <= _MAX_KEY or not key.isprintable():
        raise InvalidInput([Mistake("#", f"Idempotency-Key: expected 1 to {_MAX_KEY} printable characters")])
    return Once(request.path, key, hashlib.sha256(body).hexdigest())


def _found(number: int) -> Row:
    return _tasks().get(principal().tenant_id, number)


def _marks(call: str) -> bool:
    """Whether this request, made through `call`, counts as fetching; HEAD never does."""
    return request.method != "HEAD" and call in parts().settings.server.mark_fetched


def _depth() -> int:
    return parts().settings.limits.max_payload_depth


def _documents() -> Documents:
    return parts().documents


def _tasks() -> Tasks:
    return parts().tasks


def _creation() -> Creation:
    return parts().creation


def _replayed(created: Created) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if created.replayed else {}
