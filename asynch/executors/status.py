"""What a model's status document says, whatever shape it has; a body that is none is a result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any, TypeAlias

#: The longest body that may be a status document, bytes; some carry the model's log.
MAX_BYTES = 1 << 20
_MAX_TEXT = 1024

_Members: TypeAlias = Mapping[str, Any]


class Kind(Enum):
    """Where the model is."""

    WORKING = "working"
    DONE = "done"
    FAILED = "failed"


#: The words of Replicate, fal, RunPod, Celery, Azure, OpenAI and those like them, without case, blanks, `-` and `_`.
_WORDS: Mapping[Kind, str] = {
    Kind.WORKING: "accepted active created executing initializing inprogress inqueue notstarted pending preparing "
    "processing progress queued received retry retrying running scheduled started starting submitted waiting working",
    Kind.DONE: "complete completed done finished ok ready succeeded success successful",
    Kind.FAILED: "aborted canceled cancelled crashed error errored expired failed failure rejected revoked terminated "
    "timedout timeout",
}
_KIND_OF = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_STATUS = ("status", "state", "taskStatus")
_PROGRESS = ("progress", "percent", "percentage", "percentComplete", "progressPercent", "progressPercentage")
_MESSAGE = ("message", "statusMessage", "detail", "stage")
_REASON = ("error", "errorMessage", "errorMsg", "failureReason", "reason", *_MESSAGE)
#: A link by one of these is one without a status too.
_RESULT = ("resultUrl",)
_RESULT_WHEN_DONE = ("responseUrl", "outputUrl", "downloadUrl", "fileUrl", "resourceLocation")
_RESULT_BELOW = ("result", "output", "links", "_links", "urls")
_SEPARATORS = re.compile(r"[-_\s]+")
_PERCENT = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class Status:
    """A status document; progress is 0-100."""

    kind: Kind
    progress: float | None = None
    message: str | None = None  #: of a failure: why
    result_url: str = ""  #: where its result is, maybe relative


def read(body: bytes) -> Status | None:
    """What the body says of the model's work; None when it is no status document.

    It is one when it is a JSON object with a known word as status, with `done` false, or with a `resultUrl`; its
    members may stand below `data`, and be written in camelCase or with underscores.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for members in _levels(document):
        kind = _kind(members)
        if kind is not None:
            return _status(kind, members)
    return None


def _levels(document: object) -> Iterator[_Members]:
    if isinstance(document, dict):
        yield _camel(document)
        for name in ("data", "output"):
            if isinstance(below := document.get(name), dict):
                yield _camel(below)


def _camel(members: _Members) -> _Members:
    return {re.sub(r"(?<=.)_([a-z])", lambda m: m[1].upper(), name): value for name, value in members.items()}


def _kind(members: _Members) -> Kind | None:
    for name in _STATUS:
        word = members.get(name)
        if isinstance(word, str) and (kind := _KIND_OF.get(_SEPARATORS.sub("", word).lower())):
            return kind
    if members.get("done") is False:
        return Kind.WORKING
    return Kind.DONE if any(_link(members.get(name)) for name in _RESULT) else None


def _status(kind: Kind, members: _Members) -> Status:
    texts = (_text(members.get(name)) for name in (_REASON if kind is Kind.FAILED else _MESSAGE))
    return Status(
        kind,
        progress=next((p for name in _PROGRESS if (p := _percent(name, members.get(name))) is not None), None),
        message=next((text for text in texts if text), None),
        result_url=_result_url(members) if kind is Kind.DONE else "",
    )


def _text(value: object) -> str:
    """A text, or the text of an object that describes an error."""
    if isinstance(value, dict):
        value = next((value[name] for name in ("message", "detail", "title", "code") if value.get(name)), None)
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _percent(name: str, value: object) -> float | None:
    """0-100. A number with a fraction up to 1.0 is a part of one, but where the name says percent."""
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        value = float(match[1])
    elif isinstance(value, float) and name == "progress" and 0 <= value <= 1:
        value *= 100
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value) if 0 <= value <= 100 else None


def _result_url(members: _Members) -> str:
    for name in (*_RESULT, *_RESULT_WHEN_DONE):
        if url := _link(members.get(name)):
            return url
    for name in _RESULT_BELOW:
        value = members.get(name)
        if isinstance(value, list) and len(value) == 1:  # Replicate's output
            value = value[0]
        if isinstance(value, dict):
            value = value.get("result", value.get("url", value.get("href")))
        if isinstance(value, dict):
            value = value.get("href", value.get("url"))
        if url := _link(value, absolute=name in ("result", "output")):  # there any text may stand
            return url
    return ""


def _link(value: object, *, absolute: bool = False) -> str:
    """A URL: one that is absolute, or a path where only a link can stand."""
    if not isinstance(value, str) or not value.startswith(("https://", "http://") + (() if absolute else ("/",))):
        return ""
    return value
