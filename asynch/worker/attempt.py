"""One attempt, from its claim to its last file: call (or ask again where the model works on), save, deliver, settle.

It decides nothing about retries.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import datetime
from functools import partial

from asynch import metrics
from asynch.domain import sender
from asynch.domain.states import Phase
from asynch.errors import CallCut, ExecutorError, SessionLost, StaleClaim, StorageError, TmpUnavailable
from asynch.executors import Call, Done, Made, Order, Working
from asynch.secretbox import SecretError
from asynch.store.queue import Claim, Saved
from asynch.worker import journal, outcomes, traces
from asynch.worker.endings import drop_object, end_cut, fail, failing, put_back, with_its_mark
from asynch.worker.parts import Parts
from asynch.worker.points import reach
from asynch.worker.running import Run
from asynch.worker.tmpdir import ResultFile
from asynch.worker.trades import Trade

logger = logging.getLogger(__name__)

#: how an executor ends
Ended = Working | Done | Made | None


def run_call(
    parts: Parts, run: Run, then: Callable[[Claim | None], None], again: Callable[[Run, Working], None]
) -> None:
    """Phase 0: call the model and save its answer; `then` hears the claim in phase 1, None when the attempt is over.

    Where the model works on, `again` hears it instead, and has this called once more later. The commit of phase 1 is
    not waited for: this thread goes on to the next call, and `then` runs in the completer's. A void attempt ends
    quietly and leaves its file to the sweep: it may be a saved result by now.
    """
    reach("claimed")
    traces.begin(parts.tracer, run)
    result = None
    try:
        result = call_or_settle(parts, run)
        if isinstance(result, Working):
            _keep(parts, run, result)
            again(run, result)
            return
        if isinstance(result, Done):
            _end_done(parts, run.claim, result)
            result = None
    except (StaleClaim, SessionLost) as exc:
        journal.void(run.claim, exc)
        result = None
    if result is None:
        then(None)
        return
    if _is_stored_at_once(parts, run, result):
        _deliver_at_once(parts, run, result, then)
        return
    answer = parts.completer.submit(outcomes.saved(parts.terms, run.claim, result))
    answer.add_done_callback(partial(_after_save, parts, run.claim, result, then))


def _is_stored_at_once(parts: Parts, run: Run, result: Saved) -> bool:
    """Not what the system does for itself: its outcomes leave more than a result. A cut is the upload's to hear."""
    if run.claim.is_systems or run.call.reason is not None:
        return False
    if not parts.link(result.key, parts.tmp.file(result.tmp_file)):
        return False
    reach("linked")
    return True


def _deliver_at_once(parts: Parts, run: Run, result: Saved, then: Callable[[Claim | None], None]) -> None:
    """Both halves in one move, where storing the result took no longer than to name it.

    To hand it to an uploader, with two commits where one will do, took a tenth of all there is to do for a task.
    Killed before the commit, the model is called again, and the sweep removes file and object.
    """
    outcome = outcomes.saved_and_delivered(parts.terms, run.claim, result)
    upload = Run(outcome.claim, run.call)
    traces.begin(parts.tracer, upload)

    def over() -> None:
        traces.end(upload)
        then(None)

    def after(answer: Future[datetime]) -> None:
        claim = outcome.claim
        if answer.exception() is None:
            at = answer.result()
            reach("saved")
            parts.tmp.worked()
            traces.note_outcome(upload, outcome)
            claim = claim._replace(claimed_at=at)
        _after_delivery(parts, claim, result.key, over, answer)

    parts.completer.submit(outcome).add_done_callback(after)


def _keep(parts: Parts, run: Run, working: Working) -> None:
    """Remember where the model works on: whoever has the task from now on asks there. StaleClaim, SessionLost."""
    if not run.claim.poll_url:
        parts.completer.write(outcomes.deferred(parts.terms, run.claim, working.poll_url))
        reach("deferred")
        run.claim = run.claim._replace(poll_url=working.poll_url, payload=None)  # thousands may wait, for hours
        logger.info("the model works on", extra={"task_id": run.claim.task_id, "attempt": run.claim.attempt})
    told = working.progress, working.message
    if told != run.told and told != (None, None):
        run.told = told
        parts.tell(run.claim, working)


def _after_save(
    parts: Parts, claim: Claim, result: Saved, then: Callable[[Claim | None], None], answer: Future[datetime]
) -> None:
    saved = None
    try:
        since = answer.result()
        reach("saved")
        parts.tmp.worked()
        saved = claim._replace(phase=Phase.UPLOAD, saved=result, claimed_at=since, payload=None, poll_url="")
    except (StaleClaim, SessionLost) as exc:
        journal.void(claim, exc)
    except Exception as exc:
        parts.aside(claim, partial(failing, exc))
    finally:
        then(saved)


def call_or_settle(parts: Parts, run: Run) -> Saved | Working | Done | None:
    """Make the call; None when it failed and what that asks for is done. Raises StaleClaim, SessionLost.

    A model that works on is lost only with its time: what goes wrong on the way to it is tried again until then.
    """
    claim = run.claim
    try:
        return _call(parts, run)
    except CallCut as cut:
        end_cut(parts, claim, cut)
    except ExecutorError as error:
        if claim.poll_url and error.transient:
            logger.info("not heard of its result", extra={"task_id": claim.task_id, "error": error.detail})
            return Working(retry_after_s=error.retry_after_s)
        fail(parts, claim, error)
    except TmpUnavailable as exc:
        parts.tmp.block(str(exc))
        put_back(parts, claim, str(exc))
    return None


def _call(parts: Parts, run: Run) -> Saved | Working | Done:
    claim, call = run.claim, run.call
    call.check()
    call.tell = lambda progress, word: parts.tell(claim, Working(progress=progress, message=word))
    name = parts.tmp.name_of(claim.tenant_id, claim.id, claim.attempt)
    trade = parts.trades[claim.target.scheme]
    order = trade.order(claim)
    with parts.tmp.create(name) as file:
        reach("tmp_created")
        with traces.calling(parts.tracer, run, order) as traced:
            ended = _ask(parts, trade, claim, traced, file, call)
        if isinstance(ended, Made):
            _adopt(file, ended, call)
            ended = None
        if ended is None:
            call.answered()
            file.sync()
            reach("synced")
    if ended is not None:
        parts.tmp.remove(name)
        reach("tmp_removed")
        return ended
    return outcomes.result(claim, file, tmp_host=parts.tmp.host_id)


def _adopt(file: ResultFile, made: Made, call: Call) -> None:
    try:
        file.adopt(made.path, call.check)
        reach("adopted")
    finally:
        if made.scratch is not None:
            shutil.rmtree(made.scratch, ignore_errors=True)


def _ask(parts: Parts, trade: Trade, claim: Claim, order: Order, file: ResultFile, call: Call) -> Ended:
    ended: Ended
    if claim.poll_url:
        ended = parts.follower.follow(order, claim.poll_url, file.as_binary(), call)
        reach("called")
    else:
        ended = trade.executor.run(order, file.as_binary(), call)
        reach("called")
    return ended


def _end_done(parts: Parts, claim: Claim, done: Done) -> None:
    at = parts.completer.write(with_its_mark(parts, outcomes.done(parts.terms, claim, done.http_status)))
    reach("done")
    journal.done(claim, at)


def run_upload(parts: Parts, run: Run, then: Callable[[], None]) -> None:
    """Phase 1: bring the saved result to storage; a failure keeps it for another try.

    The commit is not waited for; `then` runs when nothing is left to do, in whatever thread.
    """
    claim, address = run.claim, ""
    traces.begin(parts.tracer, run)
    try:
        try:
            address = store(parts, claim, run.call)
            run.call.check()
        except CallCut as cut:
            end_cut(parts, claim, cut, address)
        except (StorageError, FileNotFoundError) as exc:
            _end_failed_upload(parts, claim, exc)
        else:
            answer = parts.completer.submit(with_its_mark(parts, outcomes.delivered(parts.terms, claim, address)))
            answer.add_done_callback(partial(_after_delivery, parts, claim, address, then))
            return
    except (StaleClaim, SessionLost) as exc:
        _end_void_upload(parts, claim, address, exc)
    then()


def _after_delivery(
    parts: Parts, claim: Claim, address: str, then: Callable[[], None], answer: Future[datetime]
) -> None:
    """What is left to do is another thread's: the completer's would wait for the disk, and all outcomes for it."""
    try:
        at = answer.result()
        reach("delivered")
        parts.aside(claim, partial(_end_upload, parts, claim, at))
    except (StaleClaim, SessionLost) as exc:
        parts.aside(claim, partial(_end_void_upload, parts, claim, address, exc))
    except Exception as exc:
        parts.aside(claim, partial(failing, exc))
    finally:
        then()


def _end_upload(parts: Parts, claim: Claim, at: datetime) -> None:
    """Killed before the file is removed: the sweep removes it."""
    parts.tmp.remove(claim.saved.tmp_file)
    reach("tmp_removed")
    journal.delivered(claim, at)


def _end_void_upload(parts: Parts, claim: Claim, address: str, exc: Exception) -> None:
    """What a lost session had sent to the database may still be written: that object is the sweep's, or the row's."""
    journal.void(claim, exc)
    if isinstance(exc, StaleClaim):
        drop_object(parts, claim, address)


def store(parts: Parts, claim: Claim, call: Call) -> str:
    """Bring the saved result to storage and return its address; killed after it, the next one stores it again."""
    call.check()
    saved = claim.saved
    address = parts.storage.put(
        saved.key, parts.tmp.file(saved.tmp_file), saved.content_type, sender=_sender(parts, claim)
    )
    reach("stored")
    return address


def _sender(parts: Parts, claim: Claim) -> Mapping[str, str]:
    try:
        text = parts.box.open(claim.owner_id, sender.FIELD, claim.upload_headers) if claim.upload_headers else "{}"
    except SecretError as exc:
        raise StorageError("the creator's headers cannot be read") from exc
    return sender.unpacked(text)


def _end_failed_upload(parts: Parts, claim: Claim, exc: Exception) -> None:
    if not parts.tmp.file(claim.saved.tmp_file).exists():
        parts.completer.write(outcomes.lost(parts.terms, claim))
        reach("released")
        drop_object(parts, claim, "")
        logger.error("saved result is gone, the model will be called again", extra={"task_id": claim.task_id})
        return
    metrics.STORAGE_ERRORS.labels("put").inc()
    parts.completer.write(with_its_mark(parts, outcomes.upload_failed(parts.terms, claim, str(exc))))
    reach("failed")
    logger.warning("upload failed", extra={"task_id": claim.task_id, "attempt": claim.attempt, "error": str(exc)})
