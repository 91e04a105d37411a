"""Files and uploads as rows, and the system's own tasks that work on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import orjson

from asynch import db
from asynch.db import Connection, Row


@dataclass(frozen=True, slots=True)
class NewUpload:
    """An upload as it begins: all bytes on the disk, or known already (`identity`)."""

    user: str
    filename: str
    file_hash: str
    file_size: int
    content_type: str
    status: str
    scene: str = ""
    upload_id: str = ""
    tags: Sequence[str] = ()
    identity: str = ""  #: of the file that has this content
    oss_path: str = ""  #: where that is
    metadata: str = ""  #: of a resumable one, as its sender gave it
    tmp_host: str = ""  #: where the bytes of a resumable one are
    upload_headers: str = field(default="", repr=False)  #: of its sender, sealed
    parts: int = 0  #: objects in storage that its bytes are in, until it is taken in
    id: int | None = None  #: None: a new one


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is in storage."""

    creator: str
    sha256: str  #: of the bytes as they were received
    name: str
    ext: str
    content_type: str
    size: int  #: as received, bytes
    stored_size: int
    key: str
    scene: str
    upload_id: str
    tags: Sequence[str]
    parent: int | None = None  #: the file that it was made from
    generation: int = 0  #: how many files it was made through


@dataclass(frozen=True, slots=True)
class FileAt:
    """Which file has some content, where that is stored, and as what."""

    id: int
    key: str
    content_type: str


@dataclass(frozen=True, slots=True)
class NewLane:
    """A lane of the system's own work."""

    name: str
    base_url: str
    at_once: int
    timeout_s: int
    schedule_s: Sequence[int]  #: pauses between attempts
    tmp_host: str = ""  #: the one host that can do it; empty: any


@dataclass(frozen=True, slots=True)
class NewWork:
    """A task of the system's own."""

    lane_id: int
    input_ref: str | None
    payload: str
    creator: str = ""
    id: int | None = None  #: None: a new one
    parent_id: int | None = None
    queue_timeout_s: int = 86_400
    delay_s: int = 0  #: before it is due
    trace_context: str = ""
    upload_headers: str = ""
    timeout_s: int | None = None  #: of a call; None: as its lane says
    schedule_s: Sequence[int] | None = None  #: pauses between attempts; None: as its lane says


def find_by_content(conn: Connection, *, tenant_id: int, sha256: str) -> FileAt | None:
    """The tenant's file that was received with this content."""
    found = db.row(conn, "find_file_by_content", tenant_id=tenant_id, sha256=sha256)
    return None if found is None else FileAt(found["id"], found["key"], found["content_type"])


def find_file(conn: Connection, *, tenant_id: int, file_id: int) -> Row | None:
    """A file's row."""
    return db.row(conn, "find_file", tenant_id=tenant_id, id=file_id)


def list_children(conn: Connection, *, tenant_id: int, file_id: int) -> list[Row]:
    """What was made from a file, the oldest first."""
    return db.rows(conn, "list_children", tenant_id=tenant_id, id=file_id)


def insert_file(conn: Connection, *, tenant_id: int, file: NewFile) -> FileAt:
    """Register a file; the one that has this content already, where there is one."""
    made = db.row(conn, "insert_file", tenant_id=tenant_id, **_params(file))
    if made is not None:
        return FileAt(made["id"], made["key"], made["content_type"])
    known = find_by_content(conn, tenant_id=tenant_id, sha256=file.sha256)
    if known is None:
        raise LookupError("a file conflicts with one that is not there")
    return known


def draw_upload_id(conn: Connection) -> int:
    """The id of an upload that is yet to be inserted."""
    drawn: int = db.one(conn, "draw_upload_id")["id"]
    return drawn


def host_works(conn: Connection, *, tmp_host: str, grace_s: float) -> bool:
    """Whether workers of this host have been heard of in so much time."""
    works: bool = db.one(conn, "host_works", tmp_host=tmp_host, grace_s=grace_s)["works"]
    return works


def insert_upload(conn: Connection, *, tenant_id: int, upload: NewUpload) -> int:
    """Begin an upload; its id."""
    created: int = db.one(conn, "insert_upload", tenant_id=tenant_id, **_params(upload))["id"]
    return created


def end_upload(
    conn: Connection,
    *,
    tenant_id: int,
    upload_id: int,
    status: str,
    error: str = "",
    oss_path: str = "",
    identity: str = "",
    content_type: str = "",
) -> None:
    """End an upload, if it has not ended yet; without a `content_type` it keeps the one that it has."""
    values = {
        "status": status,
        "error_msg": error,
        "oss_path": oss_path,
        "identity": identity,
        "content_type": content_type,
    }
    db.run(conn, "end_upload", tenant_id=tenant_id, id=upload_id, **values)


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose upload it was, for the task that processes it."""

    user: str
    upload_headers: str = field(repr=False)


def note_received(
    conn: Connection, *, tenant_id: int, upload_id: int, content_type: str, scene: str | None = None, parts: int = 0
) -> Sender | None:
    """All bytes of an upload are there; None where that was noted before, or it has ended."""
    values = {"content_type": content_type, "scene": scene, "parts": parts}
    found = db.row(conn, "note_received", tenant_id=tenant_id, id=upload_id, **values)
    return None if found is None else Sender(found["user"], found["upload_headers"])


def note_hash(conn: Connection, *, tenant_id: int, upload_id: int, sha256: str) -> None:
    """What the received bytes hash to, where that was not known."""
    db.run(conn, "note_hash", tenant_id=tenant_id, id=upload_id, sha256=sha256)


def put_cover(conn: Connection, *, tenant_id: int, task_id: int, key: str) -> str | None:
    """Give the file that a task was made for its cover; the key of the former one, None where the file is gone."""
    found = db.row(conn, "put_cover", tenant_id=tenant_id, task_id=task_id, key=key)
    return None if found is None else found["former"]


def lock_upload(conn: Connection, *, tenant_id: int, upload_id: int) -> Row | None:
    """An upload's row, which nobody else changes until this transaction ends."""
    return db.row(conn, "lock_upload", tenant_id=tenant_id, id=upload_id)


def find_upload(conn: Connection, *, tenant_id: int, upload_id: int) -> Row | None:
    """An upload with what its task says."""
    return db.row(conn, "find_upload", tenant_id=tenant_id, id=upload_id)


def list_uploads(
    conn: Connection, *, tenant_id: int, user: str, limit: int, offset: int, cap: int
) -> tuple[list[Row], int]:
    """A page of a user's uploads, newest first, and how many there are, counted no further than `cap`."""
    whose = {"tenant_id": tenant_id, "user": user}
    page, count = db.pipelined(
        conn,
        [("list_uploads", {**whose, "limit": limit, "offset": offset}), ("count_uploads", {**whose, "cap": cap})],
    )
    return page, count[0]["total"]


def known_incoming(conn: Connection, files: Mapping[str, tuple[int, int]]) -> set[str]:
    """Of these received files (name -> tenant, upload), those somebody still needs."""
    found = db.rows(
        conn,
        "known_incoming",
        names=list(files),
        tenants=[tenant for tenant, _ in files.values()],
        ids=[upload for _, upload in files.values()],
    )
    return {r["name"] for r in found}


def pending_uploads(conn: Connection, uploads: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Of these (tenant, upload), those whose bytes still come, and how many they will be."""
    tenants, ids = [tenant for tenant, _ in uploads], [upload for _, upload in uploads]
    found = db.rows(conn, "pending_uploads", tenants=tenants, ids=ids)
    return {(r["tenant_id"], r["id"]): r["file_size"] for r in found}


def expire_uploads(conn: Connection, *, ttl_s: float, most: int) -> list[tuple[int, int, int]]:
    """Fail uploads whose bytes never came; tenant, id and parts of each."""
    found = db.rows(conn, "expire_uploads", ttl_s=ttl_s, most=most)
    return [(r["tenant_id"], r["id"], r["parts"]) for r in found]


def insert_lane(conn: Connection, *, tenant_id: int, lane: NewLane) -> None:
    """Add a lane; one of the name that is there, or is added meanwhile, stays as it is."""
    db.run(
        conn,
        "insert_lane",
        tenant_id=tenant_id,
        name=lane.name,
        base_url=lane.base_url,
        tmp_host=lane.tmp_host,
        at_once=lane.at_once,
        timeout_s=lane.timeout_s,
        schedule=list(lane.schedule_s),
    )


def add_tags(conn: Connection, *, tenant_id: int, file_id: int, tags: Sequence[str], most: int) -> None:
    """Give a file more tags, up to so many in all."""
    db.run(conn, "add_tags", tenant_id=tenant_id, id=file_id, tags=list(tags), most=most)


def insert_work(conn: Connection, *work: NewWork) -> None:
    """Have things done."""
    db.run(conn, "insert_work", work=orjson.dumps([asdict(each) for each in work]).decode())


def _params(values: NewUpload | NewFile) -> dict[str, object]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(values).items()}
