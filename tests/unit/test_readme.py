"""README tells the truth about what can be compared with the code."""

from __future__ import annotations

from pathlib import Path

from asynch.domain.states import MOVES, Event, State

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
