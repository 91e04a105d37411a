"""The shapes of what is sent and answered about files, in snake_case as their clients have it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from asynch.domain.uploads import Status
from asynch.web.bodies import Body, Text
from asynch.web.openapi.answers import Answer, Anything, IdText, Time, Url, without_default, without_null
from asynch.web.uploads import SHA256, Word

#: words with commas between them: at most 64 of at most 64 characters
_WORDS = r"^[^,\u0000]{0,64}(,[^,\u0000]{0,64}){0,63}$"
_BYTES = {"type": "string", "format": "binary"}

Progress = Annotated[float, Field(ge=0, le=100)]


def _one_of(*names: str) -> dict[str, Any]:
    """JSON Schema for: exactly one of these members is there."""
    return {"oneOf": [{"required": [name]} for name in names]}


class Form(Body):
    """A file and what is said of it; or the SHA-256 alone of a file that the tenant may have already."""

    media_type: ClassVar[str] = "multipart/form-data"

    model_config = ConfigDict(
        alias_generator=None, json_schema_extra={"anyOf": [{"required": ["file"]}, {"required": ["sha256"]}]}
    )

    file: Annotated[bytes, WithJsonSchema(_BYTES)] = Field(b"", json_schema_extra=without_default)
    sha256: Annotated[str, Field(pattern=SHA256)] = Field("", json_schema_extra=without_default)
    scene: Word = ""
    tags: Annotated[str, WithJsonSchema({"type": "string", "pattern": _WORDS})] = ""
    upload_id: Word = ""


class InvitedLink(Body):
    """What a signed link for the bytes of a file brings."""

    expires: str
    size: str
    signature: str


class _Told(Answer):
    model_config = ConfigDict(alias_generator=None)


class Taken(_Told):
    """All bytes are here, and `task_id` tells of the rest; or they were here before, as the file `identity`."""

    model_config = ConfigDict(json_schema_extra=_one_of("task_id", "identity"))

    task_id: IdText = Field("", json_schema_extra=without_default)
    identity: IdText = Field("", json_schema_extra=without_default)
    status: Literal["received", "completed"]
    message: str


class UploadTold(_Told):
    """Where an upload stands."""

    task_id: IdText
    status: Status
    progress: Progress
    message: str
    filename: str
    file_size: int
    created_at: Time
    updated_at: Time
    repository_id: IdText = Field("", json_schema_extra=without_default)
    oss_path: Url = Field("", json_schema_extra=without_default)
    error: str = Field("", json_schema_extra=without_default)


class UploadListed(_Told):
    """An upload of a list."""

    task_id: IdText
    filename: str
    status: Status
    progress: Progress
    created_at: Time


class UploadList(_Told):
    """A page of the caller's own uploads."""

    total: int
    page: int
    size: int
    tasks: list[UploadListed]


class Invited(_Told):
    """Where the bytes of a file go: one URL, or where `parts` were asked for one each, in their order."""

    model_config = ConfigDict(json_schema_extra=_one_of("url", "urls"))

    file_name: str
    url: Url | None = Field(None, json_schema_extra=without_null)
    urls: list[Url] | None = Field(None, json_schema_extra=without_null)
    headers: dict[str, str]
    expires_at: Time


class FileTold(_Told):
    """A stored file."""

    identity: IdText
    name: str
    ext: str
    size: int
    stored_size: int
    content_type: str
    sha256: str
    scene: str
    tags: list[Text]
    parent: IdText | None
    url: Url
    cover_url: Url | None
    created_at: Time


class ActionTold(_Told):
    """What a rule does, or did, with the file."""

    task_id: IdText
    rule: IdText
    version: int
    name: str
    mode: Literal[1, 2, 3]
    target: str
    status: Literal["pending", "processing", "awaiting", "completed", "failed"]
    output: Anything
    error: str
    created_at: Time
    due_at: Time | None
    completed_at: Time | None


class FileAlone(FileTold):
    """A stored file, what was made of it, and what was done with it."""

    derived: list[FileTold]
    actions: list[ActionTold]
