"""Whose turn it is to be asked whether its model is done: by time, by tenant, within the threads there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from asynch.errors import CutReason
from asynch.executors import Call
from asynch.store.slots import Slot
from asynch.worker import following
from asynch.worker.following import Following
from asynch.worker.running import Run, Running
from tests.rows import a_claim
from tests.waiting import until


@dataclass
class Looks:
    """Looks that last until they are let go."""

    seen: list[Run] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, run: Run) -> None:
        self.seen.append(run)
        if run.call.reason is None:
            self.go.wait(10)

    def tenants(self) -> list[int]:
        return [run.claim.tenant_id for run in self.seen]


def a_run(number: int, tenant: int = 1, *, timeout_s: float = 600.0) -> Run:
    return Run(a_claim(id=number, tenant_id=tenant, poll_url="http://x/1"), Call(timeout_s), (Slot(1, number),))


@contextmanager
def followed(calls: int, running: Running | None = None) -> Iterator[tuple[Following, Looks]]:
    looks = Looks()
    made = Following(running or Running(), calls=calls, look=looks)
    try:
        yield made, looks
    finally:
        looks.go.set()
        assert made.close(5)


def stays(condition: Callable[[], object], for_s: float = 0.2) -> bool:
    pause = threading.Event()
    pause.wait(for_s)
    return bool(condition())


def test_many_are_asked_by_few_threads() -> None:
    with followed(calls=8) as (made, looks):
        for n in range(100):
            made.add(a_run(n))
        until(lambda: len(looks.seen) == 3)

        assert stays(lambda: len(looks.seen) == 3)  # and one thread for another tenant
        looks.go.set()
        until(lambda: len(looks.seen) == 100)
        assert len({run.claim.id for run in looks.seen}) == 100


def test_nobody_is_asked_before_its_time() -> None:
    with followed(calls=8) as (made, looks):
        late, soon = a_run(1), a_run(2)
        made.add(late, 0.6)
        made.add(soon, 0.1)
        looks.go.set()

        until(lambda: looks.seen == [soon])
        assert stays(lambda: looks.seen == [soon])
        until(lambda: looks.seen == [soon, late])


def test_a_tenant_whose_models_hang_leaves_a_thread_to_the_others() -> None:
    with followed(calls=4, running=Running()) as (made, looks):
        for n in range(50):
            made.add(a_run(n, tenant=1))
        until(lambda: looks.tenants() == [1])
        assert stays(lambda: looks.tenants() == [1])
        made.add(a_run(99, tenant=2))

        until(lambda: 2 in looks.tenants())


def test_turns_go_to_who_has_the_fewest_open() -> None:
    with followed(calls=16) as (made, looks):
        first = [a_run(n, tenant=1) for n in range(20)]
        for run in first:
            made.add(run, 0.2)
        for n in range(3):
            made.add(a_run(100 + n, tenant=2 + n), 0.3)
        until(lambda: len(looks.seen) == 8)

        assert looks.tenants() == [1] * 7 + [2]
        looks.go.set()
        until(lambda: len(looks.seen) == 23)


def test_calls_that_take_all_threads_leave_a_few_for_asking() -> None:
    running = Running()
    for n in range(16):
        running.add(Run(a_claim(id=1000 + n), Call(60)))
    with followed(calls=16, running=running) as (made, looks):
        for n in range(20):
            made.add(a_run(n, tenant=n))
        until(lambda: len(looks.seen) == 2)

        assert stays(lambda: len(looks.seen) == 2)
        assert running.calls()[0] == 18  # what is open counts, what waits does not


def test_what_waits_is_no_open_request() -> None:
    running = Running()
    run = a_run(1)
    running.add(run)
    with followed(calls=8, running=running) as (made, looks):
        made.add(run, 600)
        assert running.calls() == (0, set())
        made.again(run, None)
        assert running.keys() == {(1, 2)}
        assert not looks.seen


@pytest.mark.parametrize("reason", [CutReason.CANCEL, CutReason.TIMEOUT, CutReason.SESSION_LOST])
def test_a_cut_is_heard_at_once_and_once(reason: CutReason) -> None:
    with followed(calls=2) as (made, looks):
        run = a_run(1)
        made.add(run, 600)
        assert stays(lambda: not looks.seen, 0.05)

        run.call.cut(reason)

        until(lambda: looks.seen == [run])
        assert stays(lambda: looks.seen == [run])


def test_one_that_was_cut_before_it_waits_is_heard_too() -> None:
    with followed(calls=2) as (made, looks):
        run = a_run(1)
        run.call.cut(CutReason.CANCEL)
        made.add(run, 600)

        until(lambda: looks.seen == [run])


def test_a_drain_cuts_what_waits_and_what_will() -> None:
    with followed(calls=2) as (made, looks):
        early, late = a_run(1), a_run(2)
        made.add(early, 600)
        made.drain()
        made.again(late, 600.0)

        until(lambda: len(looks.seen) == 2)
        assert {run.call.reason for run in (early, late)} == {CutReason.DRAIN}


@pytest.mark.parametrize(
    ("looks", "wish", "left", "between"),
    [
        (0, None, 600, (0.8, 1.2)),
        (3, None, 600, (2.7, 4.05)),
        (50, None, 600, (24, 36)),
        (0, 0.0, 600, (0.5, 0.5)),
        (9, 120.0, 600, (120, 120)),
        (9, 3600.0, 600, (598.9, 599)),
        (50, None, 5, (3.9, 4)),
        (50, None, 0.2, (0.5, 0.5)),
    ],
)
def test_pauses_grow_and_the_last_look_comes_before_the_end(
    monkeypatch: pytest.MonkeyPatch, looks: int, wish: float | None, left: float, between: tuple[float, float]
) -> None:
    found: list[float] = []
    made = Following(Running(), calls=2, look=lambda run: None)
    monkeypatch.setattr(made, "add", lambda run, in_s: found.append(in_s))
    run = a_run(1, timeout_s=left)
    run.looks = looks

    made.again(run, wish)

    assert between[0] <= found[0] <= between[1]
    assert run.looks == looks + 1
    assert following._LONGEST_S * 1.2 == 36
