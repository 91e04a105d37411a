"""Request bodies: read within a limit, taken apart as JSON, checked against a model; each mistake has its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import quote

from flask import request
from gunicorn.http.errors import ParseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, ErrorDetails
from werkzeug.exceptions import UnsupportedMediaType

from asynch.domain import rawjson
from asynch.errors import InvalidInput, MalformedBody, Mistake, TooLarge
from asynch.web import parts

T = TypeVar("T", bound=BaseModel)

INT4_MAX = 2**31 - 1
INT8_MAX = 2**63 - 1
_CHUNK = 1 << 16
#: What reading a body raises when it ends early or lies about its chunks.
BROKEN = (OSError, ParseException)
_ID = re.compile(r"[0-9]{1,19}")
#: what may be stored, as far as a pattern that all can read says it
STORABLE = r"^[^\u0000]*$"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def read_body(limit: int) -> bytes:
    """The bytes of a JSON body; TooLarge before more than `limit` of them are read, 415 for another type."""
    _check_type()
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    try:
        body = b"".join(_chunks(limit))
    except BROKEN as exc:
        raise MalformedBody("The body ended before it was complete.") from exc
    return body


def _check_type() -> None:
    """Other types are refused; none at all only where any web page could send such a request (auth.mode none)."""
    if request.mimetype == "application/json":
        return
    if request.mimetype or parts().settings.auth.mode == "none":
        raise UnsupportedMediaType("The body must be application/json.")


def _chunks(limit: int) -> Iterator[bytes]:
    left = limit
    while chunk := request.stream.read(min(_CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise _too_large(limit)
        yield chunk


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body may have at most {limit} bytes.", limitBytes=limit)


def read_json(model: type[T], *, limit: int | None = None) -> T:
    """The body as `model`, read within `limit` (else server.max_body). Raises the Refused that fits."""
    text = rawjson.decode(read_body(limit or parts().settings.server.max_body))
    return checked(model, rawjson.members(text, raw=frozenset()))


def read_query(model: type[T]) -> T:
    """The query string as `model`: every value a text, an unknown or doubled name a mistake."""
    doubled = [name for name, values in request.args.lists() if len(values) > 1]
    if doubled:
        raise InvalidInput([Mistake(_pointer((name,)), "given more than once") for name in doubled])
    return checked(model, request.args.to_dict())


def checked(model: type[T], values: Mapping[str, Any]) -> T:
    """`values` as `model`; InvalidInput with a pointer a mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        raise InvalidInput(mistakes(exc)) from None


def mistakes(exc: ValidationError) -> list[Mistake]:
    """What pydantic found, as places in the body."""
    found = exc.errors(include_url=False, include_input=False)
    return [Mistake(_pointer(error["loc"]), _detail(error)) for error in found]


def _detail(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["type"] == "missing":
        return "required"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])  # without pydantic's "Value error, "
    told = error.get("ctx", {})
    if told.get("field_type") == "Value":  # a text that was checked before: pydantic counts its "items"
        return _length(told)
    return error["msg"]


def _length(told: Mapping[str, Any]) -> str:
    if "max_length" in told:
        return f"expected at most {told['max_length']} characters"
    least = told["min_length"]
    return f"expected at least {least} character{'' if least == 1 else 's'}"


def _pointer(path: tuple[str | int, ...]) -> str:
    """RFC 6901 as a URI fragment."""
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return "#" + "".join("/" + quote(step, safe="", errors="replace") for step in steps)


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is told of a text, where a check of our own says more than a pattern can."""

    pattern: str

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), "pattern": self.pattern}


def said(*names: str) -> dict[str, Any]:
    """JSON Schema for: these members are there, and not null."""
    return {"required": [*names], "properties": {name: {"not": {"type": "null"}} for name in names}}


def whole(value: object) -> object:
    """1.0 as 1: to JSON Schema, and to the JSON of most languages, it is the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def storable(text: str) -> str:
    """The text; ValueError for one that Postgres does not hold."""
    if _UNSTORABLE.search(text):
        raise ValueError("holds a character that cannot be stored (NUL or half of a surrogate pair)")
    return text


def _id(value: object) -> object:
    """A whole number from a number or its decimal text; JSON clients without 64-bit numbers send the text."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("expected an id: a whole number, or its digits as a string")


def _id_or_none(value: object) -> object:
    """0 for an empty text. No union: of one pydantic tells each member's mistake, at a place of its own."""
    if value == "":
        return 0
    number = _id(value)
    if number == 0:
        raise ValueError("expected an id, or an empty text for none")
    return number


def _tenant_id(value: object) -> object:
    return int(value) if isinstance(value, str) and _ID.fullmatch(value) else value


def _number_or_digits(least: int) -> dict[str, Any]:
    """How ids are described."""
    pattern = "^0*[1-9][0-9]*$" if least else "^[0-9]+$"
    digits = {"type": "string", "pattern": pattern, "maxLength": 19}
    return {"anyOf": [{"type": "integer", "minimum": least, "maximum": INT8_MAX}, digits]}


def _flag(value: object) -> object:
    if value in (0, 1) and isinstance(value, int):
        return int(value)
    raise ValueError("expected 0, 1, false or true")


Text = Annotated[str, AfterValidator(storable), Pattern(STORABLE)]
Id = Annotated[int, Field(ge=1, le=INT8_MAX), BeforeValidator(_id), WithJsonSchema(_number_or_digits(1))]
#: 0: none
IdOrNone = Annotated[
    int,
    Field(ge=0, le=INT8_MAX),
    BeforeValidator(_id_or_none),
    WithJsonSchema({"anyOf": [*_number_or_digits(1)["anyOf"], {"const": ""}]}),
]
TenantId = Annotated[
    int, Field(ge=0, le=INT8_MAX, strict=True), BeforeValidator(_tenant_id), WithJsonSchema(_number_or_digits(0))
]
Flag = Annotated[int, BeforeValidator(_flag), WithJsonSchema({"enum": [0, 1, False, True]})]


class Body(BaseModel):
    """A JSON object in camelCase whose values have exactly the types it names; unknown members are mistakes."""

    media_type: ClassVar[str] = "application/json"

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and float in map(type, values.values()):
            return {name: whole(value) for name, value in values.items()}
        return values


class Page(Body):
    """Which part of a list: pages from 1 on."""

    page_num: Annotated[int, Field(ge=1, le=INT4_MAX)] = 1
    page_size: Annotated[int, Field(ge=1, le=1000)] = 10

    @property
    def offset(self) -> int:
        """How many rows come before it."""
        return (self.page_num - 1) * self.page_size
