"""Turns log records into lines, JSON or for a reader; it never fails on what it is given to print."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("asynch_log_fields", default=_NOTHING)
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Add fields (request_id, task_id) to every record of this thread or context while the block runs."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def configure(level: str, format: Literal["json", "console"]) -> None:
    """Send everything from `level` on to stderr, one line a record; a second call replaces the first."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else Console())
    # What no line tells is not looked up for each: the caller alone costs as much as all the rest.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the way that logging's own documentation names
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """One JSON object a line, ASCII, so that no encoding and no line break in a value can tear it."""

    def format(self, record: logging.LogRecord) -> str:
        head = _head(record)
        line = {**head, **_fields(record), **head}  # the head comes first and wins
        if trace := _trace(self, record):
            line["exception"] = trace
        try:
            return _encoded(line)
        except Exception:  # keys that are no text, NaN, circles, depth: then every value as text
            return json.dumps({_text(key): _text(value) for key, value in line.items()})


class Console(logging.Formatter):
    """For people: time, level, logger, message, then the fields; only a traceback takes further lines."""

    def format(self, record: logging.LogRecord) -> str:
        head = _head(record)
        fields = "".join(f" {key}={_text(value)}" for key, value in _fields(record).items())
        line = f"{head['time']} {head['level']:<7} {head['logger']}: {head['message']}{fields}"
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
        trace = _trace(self, record)
        return f"{shown}\n{trace.encode(errors='backslashreplace').decode()}" if trace else shown


def _head(record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return {
        "time": time.replace("+00:00", "Z"),
        "level": record.levelname,
        "logger": record.name,
        "message": _message(record),
    }


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is bound, and over it what was passed as `extra`."""
    extra = {key: value for key, value in vars(record).items() if key not in _OWN}
    return {**_bound.get(), **extra}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a __str__ or a %-format of someone else: the record still says where it came from
        return f"{_text(record.msg)} {_text(record.args)}"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        return formatter.formatException(record.exc_info) if record.exc_info else ""
    except Exception:
        return f"{_text(record.exc_info)}"


def _text(value: object) -> str:
    """The value as text, whatever it is and however its class behaves."""
    try:
        return value if type(value) is str else str(value)
    except Exception:
        return f"<unprintable {type(value).__name__}>"


_encoded = json.JSONEncoder(default=_text, allow_nan=False).encode
