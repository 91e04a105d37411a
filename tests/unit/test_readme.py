"""README tells the truth about what can be compared with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from asynch.domain import callbacks
from asynch.domain.states import MOVES, Event, State
from asynch.executors import status
from asynch.media.processors import PROCESSORS

README = Path(__file__).resolve().parents[2] / "README.md"


def diagram() -> str:
    """The table of moves as a state diagram: one arrow from state to state, with all events that take it."""
    arrows: dict[tuple[str, str], list[str]] = {("[*]", State.PENDING.name): ["create"]}
    for event in Event:
        move = MOVES[event]
        for source in sorted(move.sources):
            target = move.target.name if move.target is not None else "[*]"
            arrows.setdefault((source.name, target), []).append(event.value)
    return "\n".join(
        ["stateDiagram-v2", *(f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items())]
    )


def test_state_diagram_is_the_table_of_moves() -> None:
    assert f"```mermaid\n{diagram()}\n```" in README.read_text(encoding="utf-8")


def row(beginning: str) -> str:
    """The one row of a table that begins so."""
    [found] = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {beginning}")]
    return found


def test_every_processor_is_named() -> None:
    assert set(re.findall(r"`([a-z]+\.[a-z]+)`", row("3 | a processor"))) == set(PROCESSORS)


@pytest.mark.parametrize(("told", "kind"), [("not yet", "working"), ("done", "done"), ("failed", "failed")])
def test_every_word_of_a_status_document_is_named(told: str, kind: str) -> None:
    *_, words = row(f"{told} |").removesuffix(" |").partition("; ")[0].split(" | ")

    for word in words.split():
        found = status.read(json.dumps({"status": word}).encode())
        assert found is not None, word
        assert found.kind is status.Kind(kind)
    assert len(words.split()) == len(status._WORDS[status.Kind(kind)].split())


def test_every_pause_of_a_callback_is_named() -> None:
    assert "5 s, 5 min, 30 min, 2, 5, 10 and 10 hours" in README.read_text(encoding="utf-8")
    hours = [2, 5, 10, 10]
    assert list(callbacks.SCHEDULE_S) == [5, 300, 1800, *(3600 * h for h in hours)]
