"""The retry rule: whether, when and where, from the lane's wishes and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asynch.domain.retry import (
    RETRY_AFTER_MAX_S,
    Plan,
    RetryOn,
    RetryRule,
    after_failed_call,
    after_failed_upload,
    priority_of,
    rank_of,
)

seconds = st.floats(0, 1e7)
rules = st.builds(
    RetryRule,
    times=st.integers(0, 20),
    on=st.sampled_from(RetryOn),
    backoff_s=seconds,
    queue_max_s=st.integers(-1, 10**6),
)


def rule(**changes: object) -> RetryRule:
    fields = {"times": 3, "on": RetryOn.ANY, "backoff_s": 0.0, "queue_max_s": 0}
    return RetryRule(**{**fields, **changes})  # type: ignore[arg-type]


@given(rules, st.integers(0, 40), seconds, st.booleans(), st.none() | seconds)
def test_a_call_is_never_repeated_more_often_than_asked(
    wishes: RetryRule, used: int, age_s: float, transient: bool, after_s: float | None
) -> None:
    plan = after_failed_call(wishes, retries_used=used, age_s=age_s, transient=transient, retry_after_s=after_s)

    assert not plan.again or used < wishes.times


@given(rules, seconds, st.none() | seconds)
def test_a_whole_life_has_exactly_the_retries_asked_for(wishes: RetryRule, age_s: float, after_s: float | None) -> None:
    used = 0
    while after_failed_call(wishes, retries_used=used, age_s=age_s, transient=True, retry_after_s=after_s).again:
        used += 1

    assert used == wishes.times


@given(rules, seconds)
def test_what_is_not_transient_is_repeated_only_where_any_failure_is(wishes: RetryRule, age_s: float) -> None:
    plan = after_failed_call(wishes, retries_used=0, age_s=age_s, transient=False)

    assert plan.again == (wishes.on is RetryOn.ANY and wishes.times > 0)


@given(rules, st.floats(0, 1e9))
def test_the_models_own_wish_is_honoured_up_to_an_hour(wishes: RetryRule, after_s: float) -> None:
    plan = after_failed_call(wishes, retries_used=0, age_s=0, transient=True, retry_after_s=after_s)

    if plan.again:
        assert plan.delay_s == max(wishes.backoff_s, min(after_s, 3600.0))
    assert RETRY_AFTER_MAX_S == 3600.0


@given(rules)
def test_without_a_wish_the_back_off_is_the_lanes(wishes: RetryRule) -> None:
    plan = after_failed_call(wishes, retries_used=0, age_s=0, transient=True)

    assert plan.delay_s == (wishes.backoff_s if plan.again else 0)


@given(st.integers(0, 20), seconds, seconds)
def test_zero_always_means_the_head(times: int, backoff_s: float, age_s: float) -> None:
    wishes = rule(times=times + 1, backoff_s=backoff_s, queue_max_s=0)

    assert after_failed_call(wishes, retries_used=0, age_s=age_s, transient=True).head


@given(seconds, seconds)
def test_minus_one_always_means_the_tail(backoff_s: float, age_s: float) -> None:
    wishes = rule(backoff_s=backoff_s, queue_max_s=-1)

    assert not after_failed_call(wishes, retries_used=0, age_s=age_s, transient=True).head


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_task_goes_to_the_head_when_it_is_old_enough_once_put_back(limit: int, age_s: int, backoff_s: int) -> None:
    wishes = rule(backoff_s=float(backoff_s), queue_max_s=limit)

    plan = after_failed_call(wishes, retries_used=0, age_s=float(age_s), transient=True)

    assert plan.head == (age_s + backoff_s >= limit)


@given(rules, st.integers(0, 40), seconds, st.booleans())
def test_a_final_failure_says_nothing_else(wishes: RetryRule, used: int, age_s: float, transient: bool) -> None:
    plan = after_failed_call(wishes, retries_used=used, age_s=age_s, transient=transient)

    assert plan.again or plan == Plan(again=False)


def test_uploads_back_off_from_ten_seconds_doubling_to_five_minutes() -> None:
    delays = [after_failed_upload(failures=n, saved_for_s=0, keep_s=0).delay_s for n in range(1, 9)]

    assert delays == [10, 20, 40, 80, 160, 300, 300, 300]


@given(st.integers(1, 10**9), st.floats(0, 1e12))
def test_a_result_that_is_kept_for_ever_is_offered_for_ever(failures: int, saved_for_s: float) -> None:
    plan = after_failed_upload(failures=failures, saved_for_s=saved_for_s, keep_s=0)

    assert plan.again
    assert 10 <= plan.delay_s <= 300


@given(st.integers(1, 100), st.floats(0, 1e7), st.floats(1, 1e7))
def test_an_upload_is_given_up_when_its_next_try_would_come_too_late(
    failures: int, saved_for_s: float, keep_s: float
) -> None:
    plan = after_failed_upload(failures=failures, saved_for_s=saved_for_s, keep_s=keep_s)
    delay_s = after_failed_upload(failures=failures, saved_for_s=0, keep_s=0).delay_s

    assert plan.again == (saved_for_s + delay_s <= keep_s)


@given(st.integers(1, 100), seconds, seconds)
def test_an_upload_is_offered_in_the_order_of_its_back_offs(failures: int, saved_for_s: float, keep_s: float) -> None:
    assert not after_failed_upload(failures=failures, saved_for_s=saved_for_s, keep_s=keep_s).head


@given(st.integers(0, 9), st.booleans())
def test_a_rank_remembers_its_priority(priority: int, head: bool) -> None:
    assert priority_of(rank_of(priority, head=head)) == priority


@given(st.integers(0, 9), st.integers(0, 9), st.booleans(), st.booleans())
def test_a_higher_priority_always_comes_first(one: int, other: int, one_head: bool, other_head: bool) -> None:
    if one > other:
        assert rank_of(one, head=one_head) < rank_of(other, head=other_head)


@given(st.integers(0, 9))
def test_the_head_comes_before_the_rest_of_its_priority(priority: int) -> None:
    assert rank_of(priority, head=True) < rank_of(priority)


def test_ranks_fill_their_range() -> None:
    ranks = [rank_of(priority, head=head) for priority in range(10) for head in (True, False)]

    assert sorted(ranks) == list(range(20))
