"""Takes JSON bodies apart without changing a byte of the parts named raw; what they mean is not its matter.

A payload reaches its model as the text that was sent: order, white space, escapes and big numbers kept. So it
is checked to be JSON and cut out, never parsed and written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import isinf
from typing import Any, NoReturn, TypeAlias
from urllib.parse import quote

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from asynch.errors import InvalidInput, MalformedBody, Mistake

_SPACE = re.compile(r"[ \t\n\r]*")
# what follows an item, and a member's name without escapes up to its value: one step each where it is as usual
_AFTER_ITEM = re.compile(r"[ \t\n\r]*([,\]}])[ \t\n\r]*")
_NAME = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
# one signed byte a bracket: its step up or down
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")

Path: TypeAlias = tuple[str | int, ...]


class BadJson(MalformedBody, ValueError):
    """The text is not JSON as RFC 8259 has it, or not UTF-8, or not the object or list it has to be."""


class TooDeep(InvalidInput, ValueError):
    """A value is nested deeper than allowed; its one mistake names the value."""

    def __init__(self, pointer: str, limit: int) -> None:
        super().__init__([Mistake(pointer, f"nested deeper than {limit} levels")])


@dataclass(frozen=True, slots=True)
class RawJson:
    """A JSON value as the text that was sent, valid and without white space around it.

    No str on purpose: a pydantic field of another type refuses it, so that a number beyond Python's, which is
    kept this way too, ends as a mistake at its place.
    """

    text: str

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {}


def decode(body: bytes) -> str:
    """The text of a request body: UTF-8 without a byte order mark, else BadJson."""
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise BadJson(f"the body is not UTF-8: byte {exc.start}") from exc
    if text.startswith("\ufeff"):
        raise BadJson("the body begins with a byte order mark")
    return text


def depth(text: str) -> int:
    """How deep lists and objects are nested in a JSON text: 0 for `1`, 2 for `[{}]`. Linear, no recursion.

    For a text that is no JSON it is never less than the level at which a parser meets the first mistake.
    """
    # what is between quotes is every second piece, once no escaped quote is left; both steps run at C speed
    pieces = text.replace("\\\\", "").replace('\\"', "").split('"')
    structure = "".join(pieces[::2]).encode("ascii", "replace").translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(structure).cast("b")), default=0)


def is_deeper(text: str, limit: int, at: int = 0, end: int | None = None) -> bool:
    """Whether the JSON value in between is nested deeper; most have too few brackets for it, which is cheap to see."""
    brackets = text.count("[", at, end) + text.count("{", at, end)
    return brackets > limit and depth(text[at:end]) > limit


def members(text: str, *, raw: frozenset[str], max_depth: int = 64) -> dict[str, Any]:
    """Take one JSON object apart: those named in `raw` as RawJson, others as Python values; the last of equals.

    A number that Python cannot hold (1e400, 5,000 digits) becomes RawJson in any member. BadJson for a text
    that is not one JSON object; TooDeep for a member's value nested deeper than `max_depth`.
    """
    source = _Source(text, raw, max_depth)
    found, end = source.take_object(source.skip(0), ())
    source.expect_end(end)
    if isinstance(found, TooDeep):
        raise found
    return found


def elements(
    text: str, array_member: str, *, raw: frozenset[str], max_depth: int = 64, max_items: int = 10_000
) -> list[Any]:
    """Take `{array_member: [{...}, ...]}` apart, each object as `members` does.

    An element nested too deep is a TooDeep in its place, one that is no object its Python value: the others
    stay good. BadJson as `members`; InvalidInput for another member, no list, over `max_items`. TooDeep is
    raised only where the parser itself gives up, some hundred levels down.
    """
    source = _Source(text, raw, max_depth)

    def member(name: str, at: int) -> tuple[Any, int]:
        if name == array_member and text.startswith("[", at):
            return source.take_list(at, (name,), max_items)
        return source.value(at, (name,))

    found, end = source.walk(source.skip(0), member)
    source.expect_end(end)
    unknown = [Mistake(pointer((name,)), "unknown field") for name in found if name != array_member]
    items = found.get(array_member)
    if unknown or not isinstance(items, list):
        odd = "expected a list" if array_member in found else "required"
        raise InvalidInput(unknown or [Mistake(pointer((array_member,)), odd)])
    return items


def _integer(text: str) -> int | RawJson:
    try:
        return int(text)
    except ValueError:  # more digits than sys.get_int_max_str_digits()
        return RawJson(text)


def _real(text: str) -> float | RawJson:
    number = float(text)
    return RawJson(text) if isinf(number) else number


def _constant(name: str) -> NoReturn:
    raise BadJson(f"not JSON: {name}")


#: value and end of the JSON value at a position
_read = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=_constant).raw_decode
# the same check for a value that is thrown away: bool keeps no copy of its numbers and objects
_skim = json.JSONDecoder(object_pairs_hook=bool, parse_int=bool, parse_float=bool, parse_constant=_constant).raw_decode


@dataclass(frozen=True, slots=True)
class _Source:
    """One text that is being taken apart; a method starts at a position and says where it stopped."""

    text: str
    raw: frozenset[str]
    max_depth: int

    def take_object(self, at: int, path: Path) -> tuple[dict[str, Any] | TooDeep, int]:
        """The members of an object; the first complaint among them stands for all."""

        def member(name: str, at: int) -> tuple[Any, int]:
            return self.value(at, (*path, name), raw=name in self.raw)

        found, end = self.walk(at, member)
        return next((value for value in found.values() if isinstance(value, TooDeep)), found), end

    def take_list(self, at: int, path: Path, max_items: int) -> tuple[list[Any], int]:
        """The elements of a list, objects taken apart."""
        items: list[Any] = []
        at, more = self.first_item(at, "]")
        while more:
            if len(items) == max_items:
                raise InvalidInput([Mistake(pointer(path), f"more than {max_items} elements")])
            where = (*path, len(items))
            take = self.take_object if self.text.startswith("{", at) else self.value
            item, at = take(at, where)
            items.append(item)
            at, more = self.next_item(at, "]")
        return items, at

    def walk(self, at: int, member: Callable[[str, int], tuple[Any, int]]) -> tuple[dict[str, Any], int]:
        """An object whose values `member` reads."""
        self.expect("{", at)
        found: dict[str, Any] = {}
        at, more = self.first_item(at, "}")
        while more:
            name, at = self.name(at)
            found[name], at = member(name, at)
            at, more = self.next_item(at, "}")
        return found, at

    def name(self, at: int) -> tuple[str, int]:
        """A member's name, and where its value begins."""
        if usual := _NAME.match(self.text, at):
            return usual[1], usual.end()
        self.expect('"', at)
        name, at = self.scan(_read, at, ())
        at = self.skip(at)
        self.expect(":", at)
        return name, self.skip(at + 1)

    def value(self, at: int, path: Path, raw: bool = False) -> tuple[Any, int]:
        """A value, or the complaint that it is nested too deep."""
        value, end = self.scan(_skim if raw else _read, at, path)
        if is_deeper(self.text, self.max_depth, at, end):
            return TooDeep(pointer(path), self.max_depth), end
        return (RawJson(self.text[at:end]) if raw else value), end

    def scan(self, decoder: Callable[[str, int], tuple[Any, int]], at: int, path: Path) -> tuple[Any, int]:
        try:
            return decoder(self.text, at)
        except json.JSONDecodeError as exc:
            raise BadJson(f"not JSON: {exc.msg} at character {exc.pos}") from None
        except RecursionError:
            raise TooDeep(pointer(path), self.max_depth) from None

    def first_item(self, at: int, close: str) -> tuple[int, bool]:
        """Past the opening bracket: where the first item begins, or (False) where the container ends."""
        at = self.skip(at + 1)
        return (at + 1, False) if self.text.startswith(close, at) else (at, True)

    def next_item(self, at: int, close: str) -> tuple[int, bool]:
        """Past an item: where the next one begins, or (False) where the container ends."""
        after = _AFTER_ITEM.match(self.text, at)
        if after is None or after[1] not in (",", close):
            raise self.missed(",", self.skip(at))
        return after.end(), after[1] == ","

    def skip(self, at: int) -> int:
        space = _SPACE.match(self.text, at)
        return space.end() if space else at

    def expect(self, char: str, at: int) -> None:
        if not self.text.startswith(char, at):
            raise self.missed(char, at)

    def missed(self, char: str, at: int) -> BadJson:
        return BadJson(f"not JSON: Expecting {char!r} at character {at}")

    def expect_end(self, at: int) -> None:
        if self.skip(at) != len(self.text):
            raise BadJson(f"not JSON: Extra data at character {self.skip(at)}")


def pointer(path: Path) -> str:
    """RFC 6901, as a URI fragment; what UTF-8 cannot say (a lone surrogate) becomes a question mark."""
    return "#" + "".join(
        "/" + quote(str(part).replace("~", "~0").replace("/", "~1"), safe="", errors="replace") for part in path
    )
