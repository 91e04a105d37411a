"""The retry rule, all of it: whether a failed attempt runs again, when, and where in the queue."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Back-off of failed uploads, seconds: 10 s doubling to 5 min (contract §9.4).
UPLOAD_BACKOFF_S = 10.0
UPLOAD_BACKOFF_MAX_S = 300.0
#: A model's Retry-After is believed up to this, seconds.
RETRY_AFTER_MAX_S = 3600.0
#: How much longer than scheduled a pause may be.
JITTER = 0.1


class RetryOn(str, Enum):
    """Which failures a lane tries again."""

    ANY = "any"
    TRANSIENT = "transient"  #: connection, time-out, 408, 425, 429, 5xx


@dataclass(frozen=True, slots=True)
class RetryRule:
    """A lane's wishes, as its model row has them."""

    times: int  #: retries after the first attempt
    on: RetryOn
    backoff_s: float
    queue_max_s: int  #: age from which a retry goes to the head; 0 always, -1 never
    schedule: tuple[int, ...] = ()  #: pauses before the first, second ... retry, seconds; then backoff_s


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens after a failure. Not `again`: the failure is final, the rest means nothing."""

    again: bool
    delay_s: float = 0.0
    head: bool = False  #: at the head of its priority, else at the tail


def after_failed_call(
    rule: RetryRule,
    *,
    retries_used: int,
    age_s: float,
    transient: bool,
    retry_after_s: float | None = None,
    jitter: float = 0.0,
) -> Plan:
    """Decide after a failed call; `age_s` counts from creation, `retry_after_s` is the model's own wish.

    A pause of a schedule grows by the part `jitter` (0-1) of `JITTER`, so that who failed together does not come back
    together.
    """
    allowed = transient or rule.on is RetryOn.ANY
    if not allowed or retries_used >= rule.times:
        return Plan(again=False)
    pause_s = rule.backoff_s
    if retries_used < len(rule.schedule):
        pause_s = rule.schedule[retries_used] * (1 + JITTER * jitter)
    delay_s = max(pause_s, min(retry_after_s or 0.0, RETRY_AFTER_MAX_S))
    head = rule.queue_max_s == 0 or (rule.queue_max_s > 0 and age_s + delay_s >= rule.queue_max_s)
    return Plan(again=True, delay_s=delay_s, head=head)


def after_failed_upload(*, failures: int, saved_for_s: float, keep_s: float) -> Plan:
    """Decide after the `failures`-th failed upload of a saved result; `keep_s` 0 means for ever."""
    delay_s = min(UPLOAD_BACKOFF_S * 2 ** min(failures - 1, 16), UPLOAD_BACKOFF_MAX_S)
    if keep_s and saved_for_s + delay_s > keep_s:
        return Plan(again=False)
    return Plan(again=True, delay_s=delay_s, head=False)


def rank_of(priority: int, *, head: bool = False) -> int:
    """The place of a task among its lane's, smaller first: two ranks a priority, the first for retries at the head."""
    return 2 * (9 - priority) + (0 if head else 1)


def priority_of(rank: int) -> int:
    """The priority a rank stands for."""
    return 9 - rank // 2
