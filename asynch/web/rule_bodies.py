"""What is sent to /preAction, and how conditions and options are told and kept within what can be stored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from asynch.domain import callbacks
from asynch.domain.rules import LONGEST_ITEM, MOST_ITEMS, FileFacts
from asynch.store.rules import OFF, ON, as_text
from asynch.web.bodies import INT4_MAX, INT8_MAX, STORABLE, Body, Id, IdOrNone, Page, TenantId, Text, said, storable
from asynch.web.models import LONGEST_CALL_S

MAX_OPTIONS = 4096
MAX_CONDITION = 16_384
#: a week
_LONGEST_DELAY_S = 7 * 86400

_ITEM = {"type": "string", "minLength": 1, "maxLength": LONGEST_ITEM, "pattern": STORABLE}
_TEXTS = {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": MOST_ITEMS}
_EXT = _ITEM | {"pattern": r"^[^.\u0000]+$"}
_SIZE = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
        {"type": "string", "pattern": "^[0-9]{1,6}(B|KiB|MiB|GiB|TiB)?$"},
    ]
}
#: what a condition may say, for those who read the document
_CONDITION: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "mime": {"anyOf": [_ITEM, _TEXTS], "description": "Globs on the media type, in any case."},
        "size_lt": {**_SIZE, "description": "Smaller than so many bytes."},
        "size_gt": {**_SIZE, "description": "Larger than so many bytes."},
        "ext": {"anyOf": [_EXT, _TEXTS | {"items": _EXT}], "description": "Extensions without a dot, in any case."},
        "tags_any": {**_TEXTS, "description": "At least one of these tags."},
        "tags_all": {**_TEXTS, "description": "All of these tags."},
        "scene": {"anyOf": [_ITEM, _TEXTS], "description": "Scenes."},
        "name": {"anyOf": [_ITEM, _TEXTS], "description": "Globs on the file's name, in any case."},
        "derived": {"type": "boolean", "description": "Files that were made of others meet it too."},
    },
}


def _check(value: object) -> None:
    """ValueError for what no jsonb holds."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check(name)
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif isinstance(value, str):
        storable(value)
    elif value is not None and not (isinstance(value, (bool, int, float)) and abs(value) <= INT8_MAX):
        raise ValueError("holds a number that is too large")


def _switch(value: int) -> int:
    if value not in (ON, OFF):
        raise ValueError(f"expected {ON} (on) or {OFF} (off)")
    return value


def document(limit: int) -> AfterValidator:
    """A validator of JSON that must be storable, and no longer than so many bytes."""

    def check(value: Any) -> Any:
        _check(value)
        if len(as_text(value).encode()) > limit:
            raise ValueError(f"expected at most {limit} bytes of JSON")
        return value

    return AfterValidator(check)


Name = Annotated[Text, Field(min_length=1, max_length=128)]
Word = Annotated[Text, Field(max_length=128)]
Condition = Annotated[dict[str, Any], document(MAX_CONDITION), WithJsonSchema(_CONDITION)]
Options = Annotated[dict[str, Any], document(MAX_OPTIONS)]
Target = Annotated[Text, Field(min_length=1, max_length=callbacks.MAX_URL)]
Mode = Annotated[int, Field(ge=1, le=3)]
Switch = Annotated[int, AfterValidator(_switch), WithJsonSchema({"enum": [ON, OFF]})]
Version = Annotated[int, Field(ge=1, le=INT4_MAX)]


class Fields(Body):
    """What may be said of a rule; None says nothing."""

    action_type: Annotated[Text, Field(max_length=64)] | None = None
    upload_id: Word | None = None
    scene: Word | None = None
    trigger_condition: Condition | None = None
    retry_strategy: Annotated[Text, Field(max_length=64)] | None = None
    delay_seconds: Annotated[int, Field(ge=0, le=_LONGEST_DELAY_S)] | None = None
    after: IdOrNone | None = None
    rollout_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    status: Switch | None = None
    await_result: bool | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=LONGEST_CALL_S)] | None = None
    options: Options | None = None

    def said(self) -> dict[str, Any]:
        """The fields of RuleSpec that were given; an empty `after` is after nothing."""
        told = self.model_dump(exclude_none=True, exclude={"id", "after"})
        return told if self.after is None else told | {"after_id": self.after or None}


class NewRule(Fields):
    """createPreAction."""

    action_name: Name
    execute_mode: Mode
    target_url: Target


class RuleChanges(Fields):
    """updatePreAction."""

    id: Id
    action_name: Name | None = None
    execute_mode: Mode | None = None
    target_url: Target | None = None


class WhichRule(Body):
    """getPreAction, deletePreAction."""

    id: Id


class WhichVersion(Body):
    """rollback."""

    id: Id
    version: Version


class RuleSearch(Body):
    """listPreAction."""

    page: Page = Page()
    action_name: Text | None = None
    execute_mode: Mode | None = None
    status: Switch | None = None
    tenant_id: TenantId | None = None


class SomeFile(Body):
    """A file that might be."""

    name: Text = ""
    size: Annotated[int, Field(ge=0, le=INT8_MAX)] = 0
    content_type: Text = ""
    ext: Text = ""
    tags: list[Text] = Field([], max_length=1000)
    scene: Text = ""
    upload_id: Text = ""
    derived: bool = False

    def facts(self) -> FileFacts:
        """What rules may ask of it."""
        told = self.model_dump(exclude={"derived", "tags"})
        return FileFacts(**told, tags=frozenset(self.tags), is_derived=self.derived)


class RuleTest(Body):
    """testPreAction: a stored file, or one that might be."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [said("identity"), said("file")]})

    identity: Id | None = None
    file: SomeFile | None = None
    id: Id | None = None

    @model_validator(mode="after")
    def _names_one(self) -> RuleTest:
        if (self.identity is None) == (self.file is None):
            raise ValueError("expected either identity or file")
        return self

    def asked(self) -> int | FileFacts:
        """Which file."""
        return self.file.facts() if self.file else self.identity or 0
