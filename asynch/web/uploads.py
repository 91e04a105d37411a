"""/api/file: files come in, and what becomes of them; snake_case, as the clients of these calls have it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import IO, Annotated, Any, cast

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.formparser import FormDataParser

from asynch.db import Row
from asynch.domain.ids import number_of
from asynch.errors import InvalidInput, MalformedBody, Mistake, TooLarge
from asynch.service.documents import as_json
from asynch.service.intake import Intake
from asynch.service.uploads import Received, Told
from asynch.web import parts, streams
from asynch.web.auth import creator, principal
from asynch.web.bodies import BROKEN, INT4_MAX, INT8_MAX, Body, Text, checked, read_json, read_query
from asynch.web.receiving import receiving

bp = Blueprint("uploads", __name__, url_prefix="/api/file")

#: RFC 6838, as it may stand in a header: type, subtype, and parameters that are not looked at
_MEDIA_TYPE = r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?$"
SHA256 = "^[0-9a-fA-F]{64}$"
#: Of a form besides its file. The parser counts what it has read and not yet told apart, so not less than a few of the
#: 64 KiB that it reads at once.
_MAX_FIELDS_BYTES = 512 * 1024
_MAX_PARTS = 32
#: Of a file that goes into storage past this service.
_MOST_PARTS = 1000
#: What a multipart body may have around its file.
_MAX_AROUND_BYTES = 128 * 1024


def _tags(value: object) -> object:
    """Words with commas between them."""
    if not isinstance(value, str):
        return value
    return [tag for tag in (part.strip() for part in value.split(",")) if tag]


Word = Annotated[Text, Field(max_length=128)]
Tags = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=64)]], Field(max_length=64), BeforeValidator(_tags)
]


class Fields(BaseModel):
    """What a form says besides its file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    scene: Word = ""
    tags: Tags = []
    upload_id: Word = ""

    def told(self, name: str) -> Told:
        """As the service takes it."""
        return Told(name, self.scene, self.upload_id, tuple(dict.fromkeys(self.tags)))


class PageOf(Body):
    """Which part of a list, from a query string."""

    model_config = ConfigDict(strict=False)

    page: Annotated[int, Field(ge=1, le=INT4_MAX)] = 1
    size: Annotated[int, Field(ge=1, le=1000)] = 10


@bp.post("/upload")
def upload() -> ResponseReturnValue:
    """A form with a `file`, or with the `sha256` alone of one that the tenant may have already."""
    with receiving(), _form() as (fields, file):
        told = fields.told(file.name if file else "")
        if file is None:
            if fields.sha256 is None:
                raise InvalidInput([Mistake("#/file", "required, or else sha256")])
            return _answer(parts().uploads.known(creator(), fields.sha256.lower(), told))
        if fields.sha256 and fields.sha256.lower() != file.intake.file.sha256:
            raise InvalidInput([Mistake("#/sha256", "is not the SHA-256 of the bytes that came")])
        return _answer(parts().uploads.receive(creator(), file.intake, told))


class Wanted(Body):
    """A file that is to go into storage past this service."""

    model_config = ConfigDict(alias_generator=None)

    name: Annotated[Text, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0, le=INT8_MAX)]
    content_type: Annotated[str, Field(pattern=_MEDIA_TYPE, max_length=256)]
    scene: Word = ""
    parts: Annotated[int, Field(ge=1, le=_MOST_PARTS)] | None = None


class Confirmed(Body):
    """A file that is there."""

    model_config = ConfigDict(alias_generator=None)

    file_name: Annotated[Text, Field(min_length=1, max_length=256)]
    scene: Word = ""


@bp.post("/presign")
def presign() -> ResponseReturnValue:
    """Where the bytes of a file go by PUT, past this service; nothing comes of them until they are confirmed."""
    asked = read_json(Wanted)
    told = Told(asked.name, asked.scene)
    parts_wanted = asked.parts or 1
    given = parts().direct.invite(creator(), told, size=asked.size, content_type=asked.content_type, parts=parts_wanted)
    where = {"url": given.urls[0]} if asked.parts is None else {"urls": given.urls}
    return {
        "file_name": given.file_name,
        **where,
        "headers": {"Content-Type": asked.content_type},
        "expires_at": datetime.fromtimestamp(given.expire_at, UTC),
    }


@bp.post("/confirm")
def confirm() -> ResponseReturnValue:
    """The bytes are there: have them looked at and registered; the same again tells the same."""
    asked = read_json(Confirmed)
    return _answer(parts().direct.confirm(creator(), asked.file_name, asked.scene))


@bp.get("/upload/progress/<id:task_id>")
def upload_progress(task_id: str) -> ResponseReturnValue:
    """Where an upload stands."""
    return parts().uploads.progress(principal().tenant_id, number_of(task_id))


@bp.get("/upload/tasks")
def list_uploads() -> ResponseReturnValue:
    """The caller's own uploads, newest first."""
    page = read_query(PageOf)
    listed, total = parts().uploads.search(principal(), limit=page.size, offset=(page.page - 1) * page.size)
    return {"total": total, "page": page.page, "size": page.size, "tasks": listed}


@bp.get("/upload/ws/<id:task_id>", endpoint="upload_socket")
@bp.get("/upload/ws/<id:task_id>", endpoint="upload_socket", websocket=True)  # Flask keeps the two apart
def upload_socket(task_id: str) -> ResponseReturnValue:
    """The progress at each change, over WebSocket: a text message each, closed with 1000 after the final one."""
    uploads, tenant_id, upload_id = parts().uploads, principal().tenant_id, number_of(task_id)

    def look() -> Row:
        return uploads.watched(tenant_id, upload_id)

    return streams.over_socket(look, lambda row: as_json(row["document"]), lambda _task: look())


@bp.get("/<id:identity>")
def file_document(identity: str) -> ResponseReturnValue:
    """A file, what was made of it, and links that work now."""
    return parts().uploads.file(principal(), number_of(identity))


def _answer(received: Received) -> dict[str, Any]:
    if received.identity:
        return {"identity": received.identity, "status": "completed", "message": "This content is there already."}
    return {"task_id": received.task_id, "status": "received", "message": "The file is here and will be processed."}


class _File:
    """The one file of a form, as the parser writes it."""

    def __init__(self, intake: Intake, name: str) -> None:
        self.intake = intake
        self.name = name

    def write(self, data: bytes) -> int:
        """Take what has come."""
        return self.intake.write(data)

    def seek(self, _offset: int) -> int:
        """The parser rewinds what it has written; nobody reads it from here."""
        return 0


@contextmanager
def _form() -> Iterator[tuple[Fields, _File | None]]:
    """The form of this request, its file on the disk; gone at the end unless it was kept."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("The body must be multipart/form-data.")
    most = parts().settings.uploads.max_size
    if (request.content_length or 0) > most + _MAX_AROUND_BYTES:
        raise TooLarge(f"A file may have at most {most} bytes.", limitBytes=most)
    with ExitStack() as open_files:
        files: list[_File] = []

        def begin(*, filename: str | None = None, **_told: object) -> IO[bytes]:
            if files:
                raise InvalidInput([Mistake("#/file", "one file at a time")])
            intake = parts().uploads.begin()
            open_files.enter_context(intake.file)
            files.append(_File(intake, filename or ""))
            return cast(IO[bytes], files[0])

        form, named = _parsed(begin)
        if files and "file" not in named:
            raise InvalidInput([Mistake("#/file", "the file's field is called file")])
        yield checked(Fields, _once(form)), files[0] if files else None


def _parsed(begin: Any) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
    parser = FormDataParser(begin, max_form_memory_size=_MAX_FIELDS_BYTES, max_form_parts=_MAX_PARTS, silent=False)
    try:
        _, form, named = parser.parse(request.stream, request.mimetype, request.content_length, request.mimetype_params)
    except ValueError as exc:
        raise MalformedBody(f"The form cannot be read: {exc}") from exc
    except RequestEntityTooLarge as exc:
        raise TooLarge("The form has too many or too long fields.") from exc
    except BROKEN as exc:
        raise MalformedBody("The body ended before it was complete.") from exc
    return form, named


def _once(form: MultiDict[str, str]) -> dict[str, str]:
    """Fields by name; `tags` may come in several."""
    doubled = [name for name, values in form.lists() if len(values) > 1 and name != "tags"]
    if doubled:
        raise InvalidInput([Mistake(f"#/{re.sub('[^a-z0-9_]', '', name)}", "given more than once") for name in doubled])
    return {name: ",".join(values) for name, values in form.lists()}
