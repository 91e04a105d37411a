"""How the cleaner goes on while there is much to clean."""

from __future__ import annotations

import threading
from itertools import islice
from time import monotonic

from asynch.cleaner.schedule import in_turns

_WORK_S = 0.05


def worked(stop: threading.Event, *batches: int) -> list[int]:
    """What the batches say they did, each after some work."""
    left = iter(batches)

    def duty() -> int:
        threading.Event().wait(_WORK_S)
        return next(left)

    return list(in_turns(duty, stop))


def test_a_duty_goes_on_until_nothing_is_left() -> None:
    assert worked(threading.Event(), 5, 3, 0, 9) == [5, 3, 0]


def test_a_duty_rests_as_long_as_it_works() -> None:
    began = monotonic()
    worked(threading.Event(), 1, 1, 1, 0)

    assert monotonic() - began >= 7 * _WORK_S


def test_a_duty_that_found_nothing_to_do_does_not_rest() -> None:
    stop = threading.Event()
    stop.wait = lambda timeout=None: 1 / 0  # type: ignore[method-assign]

    assert worked(stop, 0) == [0]


def test_no_batch_is_begun_once_it_is_time_to_stop() -> None:
    stop = threading.Event()
    batches = in_turns(lambda: 1, stop)
    first = list(islice(batches, 1))
    stop.set()

    assert (first, list(batches)) == ([1], [])


def test_a_rest_ends_when_it_is_time_to_stop() -> None:
    stop = threading.Event()

    def duty() -> int:
        threading.Timer(0.05, stop.set).start()
        threading.Event().wait(1.0)
        return 1

    began = monotonic()
    assert list(in_turns(duty, stop)) == [1]
    assert monotonic() - began < 1.5
