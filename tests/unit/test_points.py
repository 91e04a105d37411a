"""The named points of an attempt: none of its commits, file and store operations is without one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynch.worker import attempt, endings
from asynch.worker.points import POINTS

SOURCES = [Path(str(module.__file__)) for module in (attempt, endings)]
#: whatever is done with these leaves something behind that a killed process does not take back
LASTING = {"storage", "executor", "follower"}
#: what an attempt may ask of its tmp_dir and its file without changing them
HARMLESS = {"name_of", "file", "worked", "block", "as_binary"}
#: changes of files by any other way
RAW = {"open", "unlink", "rename", "replace", "link", "write_bytes", "write_text", "fsync", "copyfile", "mkdir"}


@pytest.fixture(scope="module")
def tree() -> ast.Module:
    return ast.Module([node for source in SOURCES for node in ast.parse(source.read_text()).body], [])


def test_every_lasting_step_of_an_attempt_is_followed_by_a_point(tree: ast.Module) -> None:
    naked = [
        f"line {step.lineno}: {ast.unparse(step).splitlines()[0]}"
        for step, following in steps(tree)
        if is_lasting(step) and point_of(following) is None
    ]
    assert naked == []


def test_every_point_is_passed_somewhere(tree: ast.Module) -> None:
    passed = {name for node in ast.walk(tree) if isinstance(node, ast.Expr) and (name := point_of(node))}
    assert passed == set(POINTS)


def test_the_check_sees_a_step_without_a_point() -> None:
    naked = "def f(parts):\n    if parts:\n        parts.tmp.remove('x')\n    return 1\n"
    step = next(step for step, _ in steps(ast.parse(naked)) if is_lasting(step))
    assert ast.unparse(step) == "parts.tmp.remove('x')"


def steps(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """Each statement of the functions, with the one that runs after it when nothing is raised."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from flow(node.body, None)


def flow(block: list[ast.stmt], after: ast.stmt | None) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    for step, following in zip(block, [*block[1:], after], strict=False):
        match step:
            case ast.With():
                yield step, step.body[0]
                yield from flow(step.body, following)
            case ast.Try():
                yield from flow(step.body, step.orelse[0] if step.orelse else following)
                for inner in (*(handler.body for handler in step.handlers), step.orelse, step.finalbody):
                    yield from flow(inner, following)
            case ast.If():
                yield from flow(step.body, following)
                yield from flow(step.orelse, following)
            case ast.For() | ast.While():
                yield from flow(step.body, step)
            case ast.Match():
                for choice in step.cases:
                    yield from flow(choice.body, following)
            case ast.FunctionDef() | ast.ClassDef():
                yield from flow(step.body, None)
            case _:
                yield step, following


def is_lasting(step: ast.stmt) -> bool:
    """Whether the statement itself, not one inside it, writes to the row, a file or the store."""
    roots = [item.context_expr for item in step.items] if isinstance(step, ast.With) else [step]
    calls = [node for root in roots for node in ast.walk(root) if isinstance(node, ast.Call)]
    return any(call_lasts(call.func) for call in calls)


def call_lasts(func: ast.expr) -> bool:
    if isinstance(func, ast.Name):
        return func.id == "open"
    if not isinstance(func, ast.Attribute):
        return False
    owner = func.value.attr if isinstance(func.value, ast.Attribute) else getattr(func.value, "id", "")
    if owner in {"completer", "answer"}:  # what was submitted is written when the answer is there
        return func.attr in {"write", "result"}
    if owner in {"tmp", "file"}:
        return func.attr not in HARMLESS
    return owner in LASTING or (func.attr in RAW and owner not in {"box"})


def point_of(step: ast.stmt | None) -> str | None:
    """The name in `reach("name")`, None for any other statement and for a name that is no point."""
    match step:
        case ast.Expr(ast.Call(func=ast.Name("reach"), args=[ast.Constant(str(name))])):
            return name if name in POINTS else None
    return None
