"""A task's life as data: its states, its phases, and the only moves between them.

State says who may touch the row; phase says which half of the work is left. Nobody writes `state` but the SQL of
sql/moves.sql and the claim, and each of those is one event of `MOVES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class State(IntEnum):
    """asynch_task.state."""

    PENDING = 0  #: queued, delayed, or put back for its retry
    RUNNING = 1  #: claimed by the worker in worker_id
    SUCCEEDED = 2  #: result stored, not fetched
    FAILED = 3  #: waits for the cleaner's retry (final false), or used up (final true)
    FETCHED = 4  #: result fetched; expires
    CANCELLED = 5  #: ended by the user


class Phase(IntEnum):
    """asynch_task.phase: which half of the work is left."""

    CALL = 0  #: call the model
    UPLOAD = 1  #: the result is in tmp_file; only the upload is left


class Event(Enum):
    """What can happen to a task once it is there."""

    CLAIM = "claim"  #: a worker takes it
    DEFER = "defer"  #: the model works on by itself: from now on it is only asked for its result
    SAVE = "save"  #: the result is in tmp_file: phase 0 -> 1, the slot goes back
    DELIVER = "deliver"  #: the result is in storage
    FAIL = "fail"  #: the attempt failed and may run again; phase kept, so phase 1 repeats the upload only
    GIVE_UP = "give_up"  #: the attempt failed and was the last
    RELEASE = "release"  #: the worker cannot go on (stopping, session lost, tmp_dir full); nobody's fault
    LOSE = "lose"  #: the tmp_file is gone: phase 1 -> 0
    RESCUE = "rescue"  #: the worker died
    CRASH = "crash"  #: the worker died with it once too often
    RETRY = "retry"  #: its back-off is over
    RERUN = "rerun"  #: the user wants it again
    CANCEL = "cancel"  #: the user ends it
    EXPIRE = "expire"  #: it waited too long
    FETCH = "fetch"  #: the business side has seen the result
    PURGE = "purge"  #: the row outlived its use


@dataclass(frozen=True, slots=True)
class Move:
    """One legal move. `target` None means the row is deleted."""

    sources: frozenset[State]
    target: State | None
    #: written only by the holder of the claim (attempt + worker id match)
    fenced: bool = False
    #: whether nothing happens by itself after it; None where it stays as it was
    final: bool | None = False


def _move(*sources: State, to: State | None, fenced: bool = False, final: bool | None = False) -> Move:
    return Move(frozenset(sources), to, fenced, final)


#: Every move there is. README's diagram is made from this table.
MOVES: dict[Event, Move] = {
    Event.CLAIM: _move(State.PENDING, to=State.RUNNING),
    Event.DEFER: _move(State.RUNNING, to=State.RUNNING, fenced=True),
    Event.SAVE: _move(State.RUNNING, to=State.RUNNING, fenced=True),
    Event.DELIVER: _move(State.RUNNING, to=State.SUCCEEDED, fenced=True, final=True),
    Event.FAIL: _move(State.RUNNING, to=State.FAILED, fenced=True),
    Event.GIVE_UP: _move(State.RUNNING, to=State.FAILED, fenced=True, final=True),
    Event.RELEASE: _move(State.RUNNING, to=State.PENDING, fenced=True),
    Event.LOSE: _move(State.RUNNING, State.PENDING, to=State.PENDING),
    Event.RESCUE: _move(State.RUNNING, to=State.PENDING),
    Event.CRASH: _move(State.RUNNING, to=State.FAILED, final=True),
    Event.RETRY: _move(State.FAILED, to=State.PENDING),
    Event.RERUN: _move(State.FAILED, State.CANCELLED, to=State.PENDING),
    Event.CANCEL: _move(State.PENDING, State.RUNNING, State.FAILED, to=State.CANCELLED, final=True),
    Event.EXPIRE: _move(State.PENDING, to=State.FAILED, final=True),
    Event.FETCH: _move(State.SUCCEEDED, to=State.FETCHED, final=True),
    Event.PURGE: _move(State.SUCCEEDED, State.FAILED, State.FETCHED, State.CANCELLED, to=None, final=None),
}


def status_of(state: State, final: bool) -> str:
    """The word clients see for a state."""
    match state:
        case State.PENDING:
            return "pending"
        case State.RUNNING:
            return "processing"
        case State.SUCCEEDED | State.FETCHED:
            return "completed"
        case State.FAILED:
            return "failed" if final else "pending"
        case State.CANCELLED:
            return "cancelled"
