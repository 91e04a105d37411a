"""Which core a process keeps to, and when it keeps to none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

import pytest

from asynch.cores import Keeper, Usage

#: cores that no machine has: nobody else can keep to one
FIRST = count(1_000_000, 100)
IDLE = Usage(0.0, 0.0, 0, {})
BULK = 100 << 20


class Process:
    """One that looks once a second, and what it sees then."""

    def __init__(self, cores: range) -> None:
        self.cores = cores
        self.keeper = Keeper(cores)
        self.seen = IDLE

    def look(
        self, *, busy: Mapping[int, float] | None = None, own: float = 0.0, passed: int = 0, after: float = 1.0
    ) -> int | None:
        """What it keeps to, after so many seconds, in which the cores were busy so long (others: not at all)."""
        idle = {core: self.seen.idle_s.get(core, 0.0) + after - (busy or {}).get(core, 0.0) for core in self.cores}
        self.seen = Usage(self.seen.at + after, self.seen.own_s + own, self.seen.passed + passed, idle)
        self.keeper.look(self.seen)
        return self.keeper.core

    def core(self) -> int:
        assert self.keeper.core is not None
        return self.keeper.core


class Processes:
    """Of a machine with two cores."""

    def __init__(self) -> None:
        first = next(FIRST)
        self.cores = range(first, first + 2)
        self.begun: list[Process] = []

    def begin(self) -> Process:
        """One more, after its first look."""
        self.begun.append(Process(self.cores))
        self.begun[-1].look()
        return self.begun[-1]

    def other(self, core: int) -> int:
        return sum(self.cores) - core


@pytest.fixture
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    for process in made.begun:
        process.keeper.leave()


def test_each_process_keeps_to_a_core_of_its_own_as_far_as_there_is_one(processes: Processes) -> None:
    first, second, third = (processes.begin() for _ in range(3))

    assert {first.core(), second.core()} == set(processes.cores)
    assert third.keeper.core is None
    assert set(third.keeper.allowed) == set(processes.cores)


def test_a_core_that_is_left_is_another_ones(processes: Processes) -> None:
    first, _, third = (processes.begin() for _ in range(3))
    left = first.core()
    first.keeper.leave()

    assert third.look() == left
    assert set(third.keeper.allowed) == {left}


def test_a_process_stays_where_it_is_however_much_it_does_itself(processes: Processes) -> None:
    process = processes.begin()
    core = process.core()

    assert process.look(own=1.0, busy={core: 1.0}) == core


def test_a_process_goes_where_it_is_idle_from_where_others_are(processes: Processes) -> None:
    process = processes.begin()
    core = process.core()
    other = processes.other(core)

    assert process.look(own=0.3, busy={core: 1.0, other: 0.3}) == other
    assert processes.begin().core() == core


@pytest.mark.parametrize(("here", "there"), [(0.7, 0.0), (1.0, 0.6)])
def test_a_process_stays_where_little_is_gained(processes: Processes, here: float, there: float) -> None:
    process = processes.begin()
    core = process.core()

    assert process.look(own=0.3, busy={core: here, processes.other(core): there}) == core


def test_a_process_does_not_go_where_another_keeps_to(processes: Processes) -> None:
    process, _ = processes.begin(), processes.begin()
    core = process.core()

    assert process.look(own=0.3, busy={core: 1.0}) == core


def test_a_process_through_which_much_passes_runs_on_all_until_that_is_over(processes: Processes) -> None:
    process = processes.begin()

    assert process.look(passed=BULK) is None
    assert process.look(passed=BULK) is None
    assert process.look() in processes.cores


def test_what_is_much_is_a_matter_of_time(processes: Processes) -> None:
    process = processes.begin()

    assert process.look(passed=BULK, after=2.0) in processes.cores
