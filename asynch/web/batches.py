"""Batches of tasks read in one go, at a fraction of the time that taking them apart and checking each of them takes.

It knows nothing that TaskIn does not: a batch that it does not take, TaskIn reads, and says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, MsgspecError, Raw, Struct
from msgspec.json import Decoder

from asynch.domain import callbacks, rawjson
from asynch.store.tasks import NewTask
from asynch.web.bodies import INT4_MAX
from asynch.web.task_bodies import MAX_BATCH, MAX_NAME, MAX_NOTE

_NULL = Raw(b"null")
#: a character that Postgres does not hold, in any text of the body
_NUL = rb"\u0000"

_Name = Annotated[str, Meta(max_length=MAX_NAME)]
_Seconds = Annotated[int, Meta(ge=1, le=INT4_MAX)]


class _Task(Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """TaskIn without notBefore."""

    model_name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    request_payload: Raw = _NULL
    input_ref: str | None = None
    biz_name: _Name | None = None
    client_ref: _Name | None = None
    metadata: Raw = _NULL
    priority: Annotated[int, Meta(ge=0, le=9)] | None = None
    delay_seconds: Annotated[float, Meta(ge=0, le=INT4_MAX)] | None = None
    queue_timeout_seconds: _Seconds | None = None
    callback_url: Annotated[str, Meta(max_length=callbacks.MAX_URL)] | None = None
    expire_notice_seconds: _Seconds | None = None


class _Batch(Struct, forbid_unknown_fields=True):
    tasks: Annotated[list[_Task], Meta(max_length=MAX_BATCH)]


_decoder = Decoder(_Batch)


class _Odd(ValueError):
    """A task that TaskIn has to see."""


def read(body: bytes, *, max_depth: int) -> Sequence[NewTask] | None:
    """The tasks of a createTaskBatch body that is UTF-8; None for a body that has to be looked at more closely."""
    if _NUL in body:
        return None
    try:
        return [_new_task(task, max_depth) for task in _decoder.decode(body).tasks]
    except (MsgspecError, RecursionError, _Odd):
        return None


def _new_task(task: _Task, max_depth: int) -> NewTask:
    payload = _text(task.request_payload, max_depth)
    metadata = _text(task.metadata, max_depth)
    if metadata is not None and (metadata[0] != "{" or len(task.metadata) > MAX_NOTE):
        raise _Odd
    if task.input_ref is not None and len(task.input_ref.encode()) > MAX_NOTE:
        raise _Odd
    if task.expire_notice_seconds is not None and task.callback_url is None:
        raise _Odd
    return NewTask(
        task.model_name,
        payload,
        payload is None or payload[0] == "{",
        task.input_ref,
        task.biz_name or "",
        task.client_ref or "",
        metadata,
        task.priority or 0,
        task.delay_seconds or 0.0,
        None,
        task.queue_timeout_seconds,
        task.callback_url,
        task.expire_notice_seconds,
    )


def _text(raw: Raw, max_depth: int) -> str | None:
    """The JSON as it was sent, None for null."""
    if raw is _NULL:
        return None
    text = bytes(raw).decode()
    if rawjson.is_deeper(text, max_depth):
        raise _Odd
    return None if text == "null" else text
