"""Log lines: one a record, complete, and never the reason that something else fails."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch import log


def record(message: str = "said", level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    logger = logging.Logger("asynch.tests")
    return logger.makeRecord("asynch.tests", level, "file.py", 1, message, (), None, extra=extra)


def parsed(given: logging.LogRecord) -> dict[str, Any]:
    line = log.JsonLines().format(given)
    assert line.isascii()
    assert "\n" not in line
    read: dict[str, Any] = json.loads(line)
    return read


def with_trace(given: logging.LogRecord) -> logging.LogRecord:
    try:
        raise ValueError("the\nreason")
    except ValueError:
        given.exc_info = sys.exc_info()
    return given


class Hostile:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=10,
)


def test_a_line_has_time_level_logger_and_message() -> None:
    line = parsed(record("said", logging.WARNING))

    assert (line["level"], line["logger"], line["message"]) == ("WARNING", "asynch.tests", "said")
    assert line["time"].endswith("Z")
    assert len(line["time"]) == len("2026-01-02T03:04:05.678Z")


def test_what_was_passed_as_extra_is_in_the_line() -> None:
    assert parsed(record(task_id="7", seconds=1.5)).items() >= {"task_id": "7", "seconds": 1.5}.items()


@given(anything)
def test_any_value_gives_one_line_that_can_be_read(value: Any) -> None:
    assert "value" in parsed(record(value=value))


@given(st.text(st.characters(codec=None)))
def test_any_message_gives_one_line_that_can_be_read(message: str) -> None:
    assert parsed(record(message.replace("%", ""))).keys() >= {"message"}


@pytest.mark.parametrize("value", [Hostile(), {Hostile(): 1}, float("nan"), {("a", "b"): 1}], ids=type)
def test_a_value_that_cannot_be_shown_costs_no_line(value: Any) -> None:
    assert parsed(record(value=value))["message"] == "said"


def test_a_circle_costs_no_line() -> None:
    circle: list[Any] = []
    circle.append(circle)

    assert parsed(record(value=circle))["message"] == "said"


def test_a_message_with_wrong_arguments_costs_no_line() -> None:
    broken = record("%d apples")
    broken.args = ("no number",)

    assert "apples" in parsed(broken)["message"]


def test_an_extra_does_not_hide_the_head() -> None:
    given = record()
    given.__dict__["level"] = "made up"

    assert parsed(given)["level"] == "INFO"


def test_an_exception_is_told_with_its_trace_in_the_same_line() -> None:
    assert "ValueError: the\nreason" in parsed(with_trace(record()))["exception"]


def test_an_exception_that_cannot_be_shown_costs_no_line() -> None:
    given = record()
    given.exc_info = (None, Hostile(), 7)  # type: ignore[assignment]  # a handler of someone else may leave anything

    assert parsed(given)["message"] == "said"


# -- for people ----------------------------------------------------------------------------------------------------


def test_a_console_line_is_one_line() -> None:
    line = log.Console().format(record("two\nlines \x1b[31m", field="a\r\nb"))

    assert "\n" not in line
    assert "\x1b" not in line
    assert line.endswith(r"two\nlines \x1b[31m field=a\r\nb")


def test_a_console_trace_follows_its_line() -> None:
    first, *rest = log.Console().format(with_trace(record())).splitlines()

    assert first.endswith("asynch.tests: said")
    assert rest[0].startswith("Traceback")


@given(anything)
def test_any_value_can_be_told_to_people(value: Any) -> None:
    assert "said" in log.Console().format(record(value=value))


# -- bound fields --------------------------------------------------------------------------------------------------


def test_bound_fields_are_in_every_line_of_the_block_and_in_none_after() -> None:
    with log.bind(task_id="7"):
        with log.bind(attempt=2):
            inner = parsed(record())
        outer = parsed(record())
    after = parsed(record())

    assert [(line.get("task_id"), line.get("attempt")) for line in (inner, outer, after)] == [
        ("7", 2), ("7", None), (None, None),
    ]  # fmt: skip


def test_bound_fields_are_this_threads_alone() -> None:
    seen: list[dict[str, Any]] = []
    with log.bind(task_id="7"):
        thread = threading.Thread(target=lambda: seen.append(parsed(record())))
        thread.start()
        thread.join()

    assert "task_id" not in seen[0]


def test_what_is_passed_wins_over_what_is_bound() -> None:
    with log.bind(task_id="7"):
        assert parsed(record(task_id="8"))["task_id"] == "8"


def test_bound_fields_go_when_the_block_fails() -> None:
    with pytest.raises(KeyError), log.bind(task_id="7"):
        raise KeyError

    assert "task_id" not in parsed(record())


# -- configured ----------------------------------------------------------------------------------------------------

PROGRAM = """
import logging, sys, warnings
from asynch import log
log.configure("INFO", sys.argv[1])
log.configure("WARNING", sys.argv[1])
logging.getLogger("asynch.x").info("not told")
logging.getLogger("asynch.x").warning("told", extra={"n": 1})
warnings.warn("look out")
"""


def said(format: str) -> tuple[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, format], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.splitlines()


def test_lines_go_to_stderr_once_from_their_level_on_and_warnings_with_them() -> None:
    stdout, lines = said("json")

    told = [json.loads(line) for line in lines]
    assert stdout == ""
    assert [line["message"].splitlines()[0].rpartition(": ")[2] for line in told] == ["told", "look out"]


def test_console_format_is_for_people() -> None:
    assert said("console")[1][0].endswith("WARNING asynch.x: told n=1")
