"""What the end of work on files leaves besides its task's row: files, covers, uploads, and the work that follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson

from asynch import db
from asynch.db import Connection, Pool, Row
from asynch.domain.states import Event
from asynch.domain.uploads import Status, staged_keys
from asynch.service import actions
from asynch.service.actions import Cause
from asynch.service.lanes import (
    COVER,
    SCHEME,
    STORED,
    UPLOAD,
    UPLOAD_FILM,
    UPLOAD_STAGED,
    ensure_lane,
    processor_lane,
)
from asynch.service.rule_specs import MODEL
from asynch.store import actions as action_store
from asynch.store import files, news
from asynch.store.actions import End, Try
from asynch.store.files import FileAt, NewFile, NewWork
from asynch.store.queue import Along, Outcome
from asynch.worker.tmpdir import TmpDir

#: A longer answer of a model is a file.
_MOST_ANSWER_BYTES = 65_536
_NUL = rb"\u0000"


def note_hash(pool: Pool, tenant_id: int, upload_id: int, sha256: str) -> bool:
    """Note what the received bytes of an upload hash to; whether no file has this content yet. DatabaseDown."""
    with db.transaction(pool) as conn:
        files.note_hash(conn, tenant_id=tenant_id, upload_id=upload_id, sha256=sha256)
        return files.find_by_content(conn, tenant_id=tenant_id, sha256=sha256) is None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said in JSON, which may be null."""

    content: Any


@dataclass(frozen=True, slots=True)
class Registry:
    """Writes it, in the transaction of the move that it belongs to."""

    covers: bool  #: whether a stored film gets one
    tmp: TmpDir

    def mark(self, outcome: Outcome) -> Along | None:
        """What this outcome leaves elsewhere."""
        claim = outcome.claim
        if not claim.is_systems:
            return None
        if claim.calls_model or claim.model_name.startswith(actions.LANE):
            return self._mark_action(outcome)
        work = claim.target.base_url.removeprefix(f"{SCHEME}:")
        is_upload = work in (UPLOAD, UPLOAD_FILM, UPLOAD_STAGED)
        match outcome.event:
            case Event.DELIVER if is_upload:
                return lambda conn: self._register(conn, outcome)
            case Event.DELIVER if work == COVER:
                return lambda conn: _put_cover(conn, outcome)
            case Event.GIVE_UP if is_upload:
                return lambda conn: _fail(conn, outcome)
            case _:
                return None

    def _register(self, conn: Connection, outcome: Outcome) -> list[str]:
        """The file is stored, so its upload is complete; returns what was staged, and what another file has already."""
        claim, saved = outcome.claim, outcome.saved
        upload = files.lock_upload(conn, tenant_id=claim.owner_id, upload_id=claim.id)
        if upload is None:
            return [saved.key]
        file = _file_of(upload, outcome)
        files.note_hash(conn, tenant_id=claim.owner_id, upload_id=claim.id, sha256=file.sha256)
        found = files.insert_file(conn, tenant_id=claim.owner_id, file=file)
        files.end_upload(
            conn,
            tenant_id=claim.owner_id,
            upload_id=claim.id,
            status=Status.COMPLETED,
            oss_path=found.key,
            identity=str(found.id),
            content_type=found.content_type,
        )
        staged = _staged(upload)
        cause = Cause(claim.creator, claim.trace_context)
        actions.fire(conn, tenant_id=claim.owner_id, file_id=found.id, cause=cause)
        if found.key != saved.key:
            return [saved.key, *staged]
        if self.covers and saved.content_type.startswith("video/"):
            _have_cover(conn, outcome, found)
        return staged

    def _mark_action(self, outcome: Outcome) -> Along | None:
        match outcome.event:
            case Event.DELIVER:
                answer = self._answer(outcome)
                return lambda conn: _complete_action(conn, outcome, answer)
            case Event.FAIL | Event.GIVE_UP | Event.CANCEL:
                return lambda conn: _fail_action(conn, outcome)
            case _:
                return None

    def _answer(self, outcome: Outcome) -> Answer | None:
        """What a model says of a file in JSON; None where it has made something else, or nothing."""
        claim = outcome.claim
        saved = claim.saved
        if not (claim.calls_model and saved.file_type == "json" and (saved.size_bytes or 0) <= _MOST_ANSWER_BYTES):
            return None
        try:
            text = self.tmp.file(saved.tmp_file).read_bytes()
            return None if _NUL in text else Answer(orjson.loads(text))  # no jsonb holds it
        except (OSError, orjson.JSONDecodeError):
            return None


def _file_of(upload: Row, outcome: Outcome) -> NewFile:
    saved = outcome.saved
    return NewFile(
        creator=outcome.claim.creator,
        sha256=upload["file_hash"] or saved.sha256,
        name=upload["filename"],
        ext=saved.file_type,
        content_type=saved.content_type,
        size=upload["file_size"],
        stored_size=saved.size_bytes or 0,
        key=saved.key,
        scene=upload["scene"],
        upload_id=upload["upload_id"],
        tags=upload["tags"],
    )


def _have_cover(conn: Connection, outcome: Outcome, file: FileAt) -> None:
    claim = outcome.claim
    lane_id = ensure_lane(conn, tenant_id=claim.owner_id, lane=processor_lane(COVER))
    work = NewWork(
        lane_id=lane_id,
        input_ref=f"{STORED}{file.key}",
        payload="{}",
        creator=claim.creator,
        parent_id=file.id,
        trace_context=claim.trace_context,
    )
    files.insert_work(conn, work)
    news.announce(conn, {lane_id})


def _put_cover(conn: Connection, outcome: Outcome) -> list[str]:
    """Returns the object that nobody needs: a former cover, or this one where the file is gone."""
    claim, key = outcome.claim, outcome.saved.key
    former = files.put_cover(conn, tenant_id=claim.owner_id, task_id=claim.id, key=key)
    if former is None:
        return [key]
    return [former] if former else []


def _fail(conn: Connection, outcome: Outcome) -> list[str]:
    detail = outcome.failure.detail if outcome.failure else ""
    claim = outcome.claim
    upload = files.lock_upload(conn, tenant_id=claim.owner_id, upload_id=claim.id)
    files.end_upload(conn, tenant_id=claim.owner_id, upload_id=claim.id, status=Status.FAILED, error=detail)
    return _staged(upload) if upload else []


def _staged(upload: Row) -> list[str]:
    """What its sender has put into storage himself, of which there is a copy now, or no need."""
    return staged_keys(upload["tenant_id"], upload["id"], upload["parts"]) if upload["parts"] else []


def _complete_action(conn: Connection, outcome: Outcome, answer: Answer | None) -> list[str]:
    """What came of an action, and the rules that waited for it; returns the object that nobody needs."""
    claim, saved = outcome.claim, outcome.saved
    action = action_store.lock_action(conn, tenant_id=claim.owner_id, action_id=claim.id)
    if action is None:
        return [saved.key] if saved.key else []
    if action["await_seconds"]:
        action_store.await_result(conn, tenant_id=claim.owner_id, action_id=claim.id)
        _log_try(conn, outcome, "delivered", "")
        return []
    _log_try(conn, outcome, "completed", "")
    cause = Cause(claim.creator, claim.trace_context)
    if answer is not None or not saved.key:
        actions.succeed(conn, action, output=None if answer is None else answer.content, cause=cause)
        return [saved.key] if saved.key else []
    made = files.insert_file(conn, tenant_id=claim.owner_id, file=_derived(conn, action, outcome))
    by_rule = replace(cause, maker=action["rule_id"])
    actions.fire(conn, tenant_id=claim.owner_id, file_id=made.id, cause=by_rule)
    actions.succeed(conn, action, output={"identity": str(made.id)}, cause=cause, made=made.id)
    return [] if made.key == saved.key else [saved.key]


def _derived(conn: Connection, action: Row, outcome: Outcome) -> NewFile:
    """What a processor made of a file."""
    claim, saved = outcome.claim, outcome.saved
    parent = files.find_file(conn, tenant_id=claim.owner_id, file_id=action["file_id"])
    stem = parent["name"].rpartition(".")[0] or parent["name"] if parent else "file"
    return NewFile(
        creator=claim.creator,
        sha256=saved.sha256,
        name=f"{stem}.{_word(action['target_url'])}.{saved.file_type}",
        ext=saved.file_type,
        content_type=saved.content_type,
        size=saved.size_bytes or 0,
        stored_size=saved.size_bytes or 0,
        key=saved.key,
        scene=parent["scene"] if parent else "",
        upload_id="",
        tags=parent["tags"] if parent else (),
        parent=action["file_id"],
        generation=parent["generation"] + 1 if parent else 1,
    )


def _word(target: str) -> str:
    """What a derived file is called after: `thumbnail` of image.thumbnail, a model's name."""
    return target.removeprefix(MODEL) if target.startswith(MODEL) else target.rpartition(".")[2]


def _fail_action(conn: Connection, outcome: Outcome) -> list[str]:
    detail = outcome.failure.detail if outcome.failure else ""
    claim = outcome.claim
    if outcome.event is not Event.FAIL:
        action_store.end_action(conn, tenant_id=claim.owner_id, action_id=claim.id, end=End("failed", detail))
    _log_try(conn, outcome, "failed", detail)
    return []


def _log_try(conn: Connection, outcome: Outcome, word: str, error: str) -> None:
    claim = outcome.claim
    tried = Try(word, claim.call_attempt or claim.attempt, claim.started_at, error)
    action_store.log_try(conn, tenant_id=claim.owner_id, action_id=claim.id, tried=tried)
