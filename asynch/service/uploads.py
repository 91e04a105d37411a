"""Uploads: from the last byte on the disk to a task that processes it, and what their senders see of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asynch import db
from asynch.db import Connection, Pool, Row
from asynch.domain.filetype import FileType
from asynch.domain.principal import Caller, Principal, served_by
from asynch.domain.states import Phase, State
from asynch.domain.uploads import Status, Work, shown_name, stage_of, staged_name
from asynch.errors import NotFound, Overloaded
from asynch.incoming import Incoming
from asynch.service import actions, listing
from asynch.service.actions import Cause
from asynch.service.documents import file_document
from asynch.service.intake import Intake
from asynch.service.lanes import ensure_lane, staged_lane, upload_lane
from asynch.storage import Inviting, Storage
from asynch.store import actions as action_store
from asynch.store import files as store
from asynch.store import news
from asynch.store.files import FileAt, NewUpload, NewWork
from asynch.store.oplog import Operation, insert_op_logs


@dataclass(frozen=True, slots=True)
class Told:
    """What a sender says of a file."""

    name: str = ""
    scene: str = ""
    upload_id: str = ""
    tags: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """All bytes are here: `task_id` tells of the rest; or they were here before, as the file `identity`."""

    task_id: str
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Uploads:
    """The use cases and what they need to know of this installation."""

    pool: Pool
    incoming: Incoming
    storage: Storage
    types: Sequence[str]
    max_size: int
    host_grace_s: float  #: a host whose workers are silent for so long has none

    def begin(self) -> Intake:
        """A new file, to be written."""
        return Intake(self.incoming.receive(), self.types, self.max_size)

    def known(self, caller: Caller, sha256: str, told: Told) -> Received:
        """The file that has this content already; NotFound where its bytes are needed."""
        with db.transaction(self.pool) as conn:
            found = store.find_by_content(conn, tenant_id=caller.principal.tenant_id, sha256=sha256)
            if found is None:
                raise NotFound("No file has this content yet: send it.", code="content_unknown")
            return self._note_known(conn, caller, found, sha256, told)

    def receive(self, caller: Caller, intake: Intake, told: Told) -> Received:
        """Take over a file whose bytes are all here. Afterwards it survives whatever ends."""
        kind, file = intake.end(), intake.file
        tenant_id = caller.principal.tenant_id
        file.sync()
        with db.connection(self.pool) as conn:
            upload_id = store.draw_upload_id(conn)
        parts = self.stage(tenant_id, upload_id, file.path, kind)
        with db.transaction(self.pool) as conn:
            if known := store.find_by_content(conn, tenant_id=tenant_id, sha256=file.sha256):
                return self._note_known(conn, caller, known, file.sha256, told)
            upload = NewUpload(
                id=upload_id,
                user=caller.principal.user,
                filename=shown_name(told.name),
                file_hash=file.sha256,
                file_size=file.size_bytes,
                content_type=kind.content_type,
                status=Status.RECEIVED,
                scene=told.scene,
                upload_id=told.upload_id,
                tags=told.tags,
                parts=parts,
            )
            store.insert_upload(conn, tenant_id=tenant_id, upload=upload)
            if not parts:
                file.keep(self.incoming.name_of(tenant_id, upload_id))
            _have_processed(conn, self.incoming.host_id, caller, upload_id, kind.content_type, parts)
            insert_op_logs(conn, caller, "uploadFile", [Operation(task_id=str(upload_id))])
        if not parts:
            file.kept()
        return Received(str(upload_id))

    def stage(self, tenant_id: int, upload_id: int, path: Path, kind: FileType) -> int:
        """Put a whole file into storage where this host has no worker to process it; in how many objects it is there.

        Overloaded where the storage cannot be asked for it again, StorageError.
        """
        with db.connection(self.pool) as conn:
            if store.host_works(conn, tmp_host=self.incoming.host_id, grace_s=self.host_grace_s):
                return 0
        if not isinstance(self.storage, Inviting):
            raise Overloaded("No worker runs on this host.", code="no_worker")
        self.storage.put(staged_name(tenant_id, upload_id), path, kind.content_type)
        return 1

    def _note_known(self, conn: Connection, caller: Caller, known: FileAt, sha256: str, told: Told) -> Received:
        tenant_id = caller.principal.tenant_id
        row = store.find_file(conn, tenant_id=tenant_id, file_id=known.id)
        upload = NewUpload(
            user=caller.principal.user,
            filename=shown_name(told.name or (row["name"] if row else "")),
            file_hash=sha256,
            file_size=row["size"] if row else 0,
            content_type=row["content_type"] if row else "",
            status=Status.COMPLETED,
            scene=told.scene,
            upload_id=told.upload_id,
            tags=told.tags,
            identity=str(known.id),
            oss_path=known.key,
        )
        upload_id = str(store.insert_upload(conn, tenant_id=tenant_id, upload=upload))
        insert_op_logs(conn, caller, "uploadFile", [Operation(task_id=upload_id)])
        cause = Cause(caller.principal.user, caller.trace_context)
        actions.fire(conn, tenant_id=tenant_id, file_id=known.id, cause=cause)
        return Received(upload_id, str(known.id))

    def progress(self, tenant_id: int, upload_id: int) -> dict[str, Any]:
        """Where an upload stands. NotFound."""
        return self._told(self._found(tenant_id, upload_id))

    def watched(self, tenant_id: int, upload_id: int) -> Row:
        """Where an upload stands, as a stream tells it: with the key under which changes of its task are heard."""
        row = self._found(tenant_id, upload_id)
        return {
            "tenant_id": served_by(tenant_id),
            "id": upload_id,
            "version": row["version"] or 0,
            "final": stage_of(Status(row["status"]), _work(row)).status.is_final,
            "document": self._told(row),
        }

    def _found(self, tenant_id: int, upload_id: int) -> Row:
        with db.connection(self.pool) as conn:
            row = store.find_upload(conn, tenant_id=tenant_id, upload_id=upload_id)
        if row is None:
            raise NotFound("There is no such upload.")
        return row

    def search(self, principal: Principal, *, limit: int, offset: int) -> tuple[list[dict[str, Any]], int]:
        """A page of the principal's own uploads, newest first, and how many there are."""
        with db.connection(self.pool) as conn:
            rows, total = store.list_uploads(
                conn,
                tenant_id=principal.tenant_id,
                user=principal.user,
                limit=limit,
                offset=offset,
                cap=listing.TOTAL_CAP,
            )
        return [_listed(row) for row in rows], total

    def _told(self, row: Row) -> dict[str, Any]:
        stage = stage_of(Status(row["status"]), _work(row))
        told = {
            "task_id": row["task_id"],
            "status": stage.status.value,
            "progress": stage.progress,
            "message": "" if stage.status.is_final else row["message"] or "",
            "filename": row["filename"],
            "file_size": row["file_size"],
            "created_at": row["created_at"],
            "updated_at": max(row["updated_at"], row["task_updated_at"] or row["updated_at"]),
        }
        if stage.status is Status.COMPLETED:
            name, kind = row["filename"], row["content_type"]
            told["repository_id"] = row["repository_identity"]
            told["oss_path"] = self.storage.url(row["oss_path"], filename=name, content_type=kind)
        if stage.status is Status.FAILED:
            told["error"] = row["error_msg"] or row["task_error"] or "the upload failed"
        return told

    def file(self, asker: Principal, file_id: int) -> dict[str, Any]:
        """A file and what was made of it. NotFound."""
        tenant_id = asker.tenant_id
        with db.connection(self.pool) as conn:
            # In this order: what an action that has ended left behind is there too.
            acts = action_store.list_actions(conn, tenant_id=tenant_id, file_id=file_id)
            children = store.list_children(conn, tenant_id=tenant_id, file_id=file_id)
            row = store.find_file(conn, tenant_id=tenant_id, file_id=file_id)
        if row is None:
            raise NotFound("There is no such file.")
        derived = [file_document(self.storage, child) for child in children]
        done = [actions.action_document(act, for_admin=asker.is_admin) for act in acts]
        return file_document(self.storage, row) | {"derived": derived, "actions": done}


def take_in(
    conn: Connection,
    tmp_host: str,
    caller: Caller,
    upload_id: int,
    content_type: str,
    parts: int = 0,
    *,
    scene: str | None = None,
) -> None:
    """All bytes are there: that it is so, and the task that processes them, are one fact; noted before, it stays.

    They are on the disk of `tmp_host`, or in so many objects in storage. The upload goes on in its sender's name.
    """
    sender = store.note_received(
        conn,
        tenant_id=caller.principal.tenant_id,
        upload_id=upload_id,
        content_type=content_type,
        scene=scene,
        parts=parts,
    )
    if sender is not None:
        principal = replace(caller.principal, user=sender.user)
        sent_by = replace(caller, principal=principal, upload_headers=sender.upload_headers)
        _have_processed(conn, tmp_host, sent_by, upload_id, content_type, parts)


def _have_processed(
    conn: Connection, tmp_host: str, caller: Caller, upload_id: int, content_type: str, parts: int
) -> None:
    """Have a worker look at a file whose bytes are all there, as its row says in this transaction.

    They are on the disk of `tmp_host`, whose workers alone can do it, or in so many objects in storage.
    """
    tenant_id = caller.principal.tenant_id
    film = content_type.startswith("video/")
    lane = staged_lane() if parts else upload_lane(tmp_host, film=film)
    lane_id = ensure_lane(conn, tenant_id=tenant_id, lane=lane)
    work = NewWork(
        lane_id=lane_id,
        id=upload_id,
        input_ref=Incoming.name_of(tenant_id, upload_id),
        payload=f'{{"parts": {parts}}}',
        creator=caller.principal.user,
        trace_context=caller.trace_context,
        upload_headers=caller.upload_headers,
    )
    store.insert_work(conn, work)
    news.announce(conn, {lane_id})


def _work(row: Row) -> Work | None:
    if row["state"] is None:
        return None
    return Work(State(row["state"]), Phase(row["phase"]), row["final"], row["progress"], row["message"] or "")


def _listed(row: Row) -> dict[str, Any]:
    stage = stage_of(Status(row["status"]), _work(row))
    return {
        "task_id": row["task_id"],
        "filename": row["filename"],
        "status": stage.status.value,
        "progress": stage.progress,
        "created_at": row["created_at"],
    }
