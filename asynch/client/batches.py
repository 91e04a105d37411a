"""Lists of any length cut into calls the server takes; what cannot be sent at all is told like a refusal of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from asynch.client.shapes import Created
from asynch.client.transport import encoded

T = TypeVar("T")

GET_LIMIT = 1000  #: ids in one getTaskBatch
CREATE_LIMIT = 10_000  #: tasks in one createTaskBatch
MAX_BODY = 64 << 20  #: bytes of one createTaskBatch
_HEAD, _TAIL = b'{"tasks":[', b"]}"


def chunks(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size`."""
    rest = iter(things)
    while chunk := list(islice(rest, size)):
        yield chunk


@dataclass(slots=True)
class Batch:
    """What one createTaskBatch carries, and what was refused on the way to it."""

    indexes: list[int] = field(default_factory=list)  #: of the tasks in it, in the whole list
    refused: list[Created] = field(default_factory=list)
    _texts: list[bytes] = field(default_factory=list)
    _size: int = len(_HEAD) + len(_TAIL)

    def has_room(self, text: bytes) -> bool:
        """Whether one more goes in."""
        return len(self._texts) < CREATE_LIMIT and self._size + len(text) + 1 <= MAX_BODY

    def add(self, index: int, text: bytes) -> None:
        """Put a task in."""
        self.indexes.append(index)
        self._texts.append(text)
        self._size += len(text) + 1

    def body(self) -> bytes:
        """The request's body."""
        return _HEAD + b",".join(self._texts) + _TAIL

    def results(self, listed: Iterable[Mapping[str, Any]]) -> list[Created]:
        """What came of each, in order, numbered as in the whole list."""
        made = [Created(**{**result, "index": self.indexes[result["index"]]}) for result in listed]  # type: ignore[typeddict-item]
        return sorted(made + self.refused, key=lambda result: result["index"])


def batches(items: Iterable[Mapping[str, Any]]) -> Iterator[Batch]:
    """The items, cut by number and by size; the same items are always cut the same way."""
    batch = Batch()
    for index, item in enumerate(items):
        try:
            text = encoded(dict(item))
        except (TypeError, ValueError) as exc:
            batch.refused.append(_refused(index, "invalid_input", f"this is no JSON: {exc}"))
            continue
        if not Batch().has_room(text):
            batch.refused.append(_refused(index, "body_too_large", f"a request may have at most {MAX_BODY} bytes"))
            continue
        if not batch.has_room(text):
            yield batch
            batch = Batch()
        batch.add(index, text)
    if batch.indexes or batch.refused:
        yield batch


def _refused(index: int, code: str, detail: str) -> Created:
    return {"index": index, "error": {"code": code, "detail": detail}}
