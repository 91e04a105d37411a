from __future__ import annotations

from asynch.service.rooms import Rooms
from asynch.store.tasks import Depth

LANE = 7


def counted(depth: int, *, first: int | None, returning: int = 0) -> Rooms:
    """When 100 numbers were drawn, under a limit of 10."""
    rooms = Rooms()
    rooms.counted(LANE, queue_limit=10, drawn=100, found=Depth(depth, returning, first))
    return rooms


def covered(rooms: Rooms, limit: int = 10) -> list[int]:
    room = rooms.known(LANE, queue_limit=limit)
    return [] if room is None else list(range(room.drawn, room.bound + 1))


def test_what_was_never_counted_has_no_room_and_is_counted_from_the_beginning() -> None:
    assert covered(Rooms()) == []
    assert Rooms().since(LANE, queue_limit=10, drawn=100) == 0


def test_room_is_what_is_left_by_those_there_and_those_that_come_back() -> None:
    rooms = counted(5, returning=2, first=40)
    assert covered(rooms) == [100, 101, 102, 103]
    assert covered(rooms, limit=11) == []


def test_a_lane_that_is_over_its_limit_has_no_room() -> None:
    assert covered(counted(12, first=40)) == [100]


def test_the_next_count_begins_at_the_first_that_was_there() -> None:
    assert counted(5, first=40).since(LANE, queue_limit=10, drawn=130) == 40


def test_after_an_empty_lane_it_begins_at_what_was_drawn() -> None:
    assert counted(0, first=None).since(LANE, queue_limit=10, drawn=130) == 100


def test_under_another_limit_it_begins_anew() -> None:
    assert counted(5, first=40).since(LANE, queue_limit=11, drawn=130) == 0


def test_nothing_holds_in_a_database_that_is_older_than_the_count() -> None:
    rooms = counted(5, first=40)
    assert rooms.since(LANE, queue_limit=10, drawn=99) == 0
    assert 99 not in covered(rooms)
