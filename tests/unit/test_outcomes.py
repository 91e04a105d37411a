"""What each event leaves in a row, as pure functions of the claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch.domain.retry import RetryOn, rank_of
from asynch.domain.states import Event, Phase
from asynch.errors import CutReason, ErrorCode, ExecutorError
from asynch.store.queue import Claim, Outcome, Saved
from asynch.worker import outcomes
from asynch.worker.outcomes import Terms
from tests.rows import a_claim, a_target

DAY = 86400.0
TERMS = Terms("host-1", failed_retention_s=60.0, unfetched_retention_s=30 * DAY)
RESULT = Saved("1_5_2", "h", "1/k.json", "json", "application/json", 7, "aa")
BROKEN = ExecutorError(ErrorCode.MODEL_HTTP_ERROR, "503: busy", transient=True, http_status=503)
REFUSED = ExecutorError(ErrorCode.MODEL_HTTP_ERROR, "400: no", transient=False, http_status=400)

ALL: dict[str, Callable[[Claim], Outcome]] = {
    "saved": lambda c: outcomes.saved(TERMS, c, RESULT),
    "delivered": lambda c: outcomes.delivered(TERMS, c),
    "failed": lambda c: outcomes.call_failed(TERMS, c, BROKEN),
    "upload failed": lambda c: outcomes.upload_failed(TERMS, c, "no store"),
    "released": lambda c: outcomes.released(TERMS, c, "why"),
    "lost": lambda c: outcomes.lost(TERMS, c),
    "cancelled": lambda c: outcomes.cancelled(TERMS, c),
}


def uploading(**changes: object) -> Claim:
    return a_claim(phase=Phase.UPLOAD, saved=RESULT, **changes)


# -- text that the database can hold -------------------------------------------------------------------------------


@given(st.text(st.characters(codec=None)))
def test_storable_text_is_utf8_without_nul_and_bounded(text: str) -> None:
    stored = outcomes.storable(text)

    assert "\0" not in stored.encode().decode()
    assert len(stored) <= 2048


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2048))
def test_text_that_can_be_stored_stays_as_it_is(text: str) -> None:
    assert outcomes.storable(text) == text


@pytest.mark.parametrize("write", [outcomes.call_failed, outcomes.upload_failed])
def test_a_failures_text_can_be_stored(write: Callable[..., Outcome]) -> None:
    word = "a\0b\ud800" * 5000
    what = ExecutorError(ErrorCode.BAD_RESPONSE, word, transient=True) if write is outcomes.call_failed else word

    failure = write(TERMS, uploading(), what).failure

    assert failure is not None
    assert failure.detail.startswith("a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}")
    assert len(failure.detail) <= 2048


def test_times_are_utc_with_milliseconds() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_999, tzinfo=timezone(timedelta(hours=2)))

    assert outcomes.rfc3339(at) == "2026-01-02T01:04:05.678Z"


@pytest.mark.parametrize(
    ("name", "event", "finished"),
    [
        ("saved", Event.SAVE, True),
        ("delivered", Event.DELIVER, True),
        ("failed", Event.GIVE_UP, True),
        ("upload failed", Event.FAIL, True),
        ("released", Event.RELEASE, False),
        ("lost", Event.LOSE, False),
        ("cancelled", Event.CANCEL, True),
    ],
)
def test_every_outcome_is_its_event_and_tells_whether_work_was_done(name: str, event: Event, finished: bool) -> None:
    written = ALL[name](uploading(retry_count=1))

    assert (written.event, written.finished) == (event, finished)


# -- records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_outcome_leaves_a_record_of_its_attempt(name: str) -> None:
    record = ALL[name](uploading()).record

    assert set(record) == {"attempt", "startedAt", "host", "phase", "outcome", "code", "httpStatus", "detail"}
    assert (record["attempt"], record["host"]) == (2, "host-1")


def test_the_record_of_a_failed_call_tells_what_the_model_said() -> None:
    record = outcomes.call_failed(TERMS, a_claim(), BROKEN).record

    assert (record["outcome"], record["code"], record["httpStatus"], record["detail"], record["phase"]) == (
        "failed", "model_http_error", 503, "503: busy", 0,
    )  # fmt: skip


def test_a_record_of_an_upload_starts_when_the_upload_did() -> None:
    claim = uploading()

    assert outcomes.delivered(TERMS, claim).record["startedAt"] == outcomes.rfc3339(claim.claimed_at)


def test_a_record_of_a_call_starts_when_the_call_did() -> None:
    claim = a_claim()

    assert outcomes.saved(TERMS, claim, RESULT).record["startedAt"] == outcomes.rfc3339(claim.started_at)


def test_a_records_detail_is_short() -> None:
    error = ExecutorError(ErrorCode.BAD_RESPONSE, "x" * 5000, transient=True)

    assert len(outcomes.call_failed(TERMS, a_claim(), error).record["detail"]) == 1024


# -- results -------------------------------------------------------------------------------------------------------


def test_a_saved_result_waits_for_its_upload() -> None:
    written = outcomes.saved(TERMS, a_claim(), RESULT)

    assert (written.event, written.phase, written.saved) == (Event.SAVE, Phase.UPLOAD, RESULT)


def test_a_delivered_result_keeps_its_object_and_leaves_its_file() -> None:
    written = outcomes.delivered(TERMS, uploading())

    assert (written.phase, written.failure) == (Phase.CALL, None)
    assert written.saved == RESULT._replace(tmp_file="", tmp_host="")


@pytest.mark.parametrize(("keep_s", "wakes"), [(30 * DAY, 30 * DAY), (0.0, None)])
def test_a_delivered_result_is_kept_until_nobody_fetched_it(keep_s: float, wakes: float | None) -> None:
    assert outcomes.delivered(replace(TERMS, unfetched_retention_s=keep_s), uploading()).wake_in_s == wakes


@pytest.mark.parametrize("write", [ALL["upload failed"], ALL["released"], ALL["cancelled"]])
def test_what_ends_an_upload_without_success_keeps_the_result(write: Callable[[Claim], Outcome]) -> None:
    written = write(uploading())

    assert (written.phase, written.saved) == (Phase.UPLOAD, RESULT)


@pytest.mark.parametrize("write", [ALL["failed"], ALL["released"], ALL["cancelled"]])
def test_what_ends_a_call_without_success_has_no_result(write: Callable[[Claim], Outcome]) -> None:
    written = write(a_claim())

    assert (written.phase, written.saved) == (Phase.CALL, Saved())


def test_a_lost_result_is_called_again_from_the_end_of_its_queue() -> None:
    written = outcomes.lost(TERMS, uploading())

    assert (written.event, written.phase, written.saved) == (Event.LOSE, Phase.CALL, Saved())
    assert (written.rank, written.enqueue_in_s, written.upload_failures) == (15, 0.0, 0)


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_with_a_retry_left_is_not_the_last() -> None:
    written = outcomes.call_failed(TERMS, a_claim(target=a_target(times=1, backoff_s=5.0)), BROKEN)

    assert (written.event, written.wake_in_s) == (Event.FAIL, 5.0)


def test_a_used_up_failure_is_kept_for_its_retention() -> None:
    written = outcomes.call_failed(TERMS, a_claim(retry_count=1), BROKEN)

    assert (written.event, written.wake_in_s, written.enqueue_in_s, written.rank) == (Event.GIVE_UP, 60.0, None, 15)


def test_a_failure_that_no_repetition_can_mend_is_the_last_where_only_transient_ones_are_repeated() -> None:
    target = a_target(times=9, on=RetryOn.TRANSIENT)

    assert outcomes.call_failed(TERMS, a_claim(target=target), REFUSED).event is Event.GIVE_UP
    assert outcomes.call_failed(TERMS, a_claim(target=target), BROKEN).event is Event.FAIL


def test_a_retry_at_the_head_queues_from_its_failure() -> None:
    written = outcomes.call_failed(TERMS, a_claim(target=a_target(queue_max_s=0, backoff_s=30.0)), BROKEN)

    assert (written.rank, written.enqueue_in_s, written.wake_in_s) == (rank_of(2, head=True), 0.0, 30.0)


def test_a_retry_at_the_tail_queues_from_the_end_of_its_back_off() -> None:
    written = outcomes.call_failed(TERMS, a_claim(target=a_target(queue_max_s=-1, backoff_s=30.0)), BROKEN)

    assert (written.rank, written.enqueue_in_s, written.wake_in_s) == (rank_of(2), 30.0, 30.0)


def test_the_models_wish_for_a_pause_is_heard() -> None:
    busy = ExecutorError(ErrorCode.MODEL_HTTP_ERROR, "429", transient=True, http_status=429, retry_after_s=77.0)

    assert outcomes.call_failed(TERMS, a_claim(), busy).wake_in_s == 77.0


def test_readers_hear_whether_the_same_call_may_succeed_later() -> None:
    told = [outcomes.call_failed(TERMS, a_claim(), error).failure for error in (BROKEN, REFUSED)]

    assert [f and f.retryable for f in told] == [True, False]


def test_a_failed_upload_backs_off_more_each_time() -> None:
    delays = [outcomes.upload_failed(TERMS, uploading(upload_failures=n), "x").wake_in_s for n in range(7)]

    assert delays == [10, 20, 40, 80, 160, 300, 300]


def test_a_failed_upload_counts_apart_from_the_retries() -> None:
    written = outcomes.upload_failed(TERMS, uploading(upload_failures=3, retry_count=1), "x")

    assert (written.event, written.upload_failures) == (Event.FAIL, 4)


def test_an_upload_is_given_up_when_its_result_is_too_old() -> None:
    claim = uploading(started_at=datetime(2025, 1, 1, tzinfo=UTC))

    written = outcomes.upload_failed(TERMS, claim, "x")

    assert (written.event, written.wake_in_s, written.saved) == (Event.GIVE_UP, 60.0, RESULT)


def test_a_result_that_is_kept_for_ever_is_never_given_up() -> None:
    claim = uploading(started_at=datetime(2025, 1, 1, tzinfo=UTC))

    assert outcomes.upload_failed(replace(TERMS, unfetched_retention_s=0.0), claim, "x").event is Event.FAIL


def test_a_long_delay_before_the_call_takes_nothing_from_the_time_of_its_upload() -> None:
    assert outcomes.upload_failed(TERMS, uploading(age_s=365 * DAY), "x").event is Event.FAIL


# -- released and cancelled ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", [a_claim(), uploading(upload_failures=2)])
def test_a_released_task_keeps_its_place_and_its_counts(claim: Claim) -> None:
    written = outcomes.released(TERMS, claim, "why")

    assert (written.rank, written.enqueue_in_s, written.wake_in_s, written.finished) == (15, None, None, False)
    assert (written.upload_failures, written.failure) == (claim.upload_failures, None)


def test_a_cancelled_task_says_so() -> None:
    failure = outcomes.cancelled(TERMS, a_claim()).failure

    assert failure is not None
    assert (failure.code, failure.retryable) == ("cancelled", False)


def test_there_is_a_word_for_every_release() -> None:
    assert set(outcomes.WHY_RELEASED) == {CutReason.DRAIN, CutReason.SESSION_LOST}


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (outcomes.released(TERMS, a_claim(poll_url="http://x/1"), "why"), "http://x/1"),
        (outcomes.deferred(TERMS, a_claim(), "http://x/1"), "http://x/1"),
        (outcomes.saved(TERMS, a_claim(poll_url="http://x/1"), RESULT), ""),
        (outcomes.cancelled(TERMS, a_claim(poll_url="http://x/1")), ""),
        (outcomes.call_failed(TERMS, a_claim(poll_url="http://x/1"), BROKEN), ""),
    ],
)
def test_where_a_model_works_on_is_kept_while_it_may_be_asked(written: Outcome, kept: str) -> None:
    assert written.poll_url == kept
