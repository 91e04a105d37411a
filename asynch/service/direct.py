"""Files that their senders put into storage themselves: invited, confirmed, taken in by a worker."""

from __future__ import annotations

import time
from dataclasses import dataclass

from asynch import db
from asynch.db import Row
from asynch.domain.principal import Caller
from asynch.domain.uploads import Status, shown_name, staged_id, staged_keys, staged_name
from asynch.errors import Conflict, NotFound
from asynch.service.intake import expect_size, expect_type
from asynch.service.uploads import Received, Told, Uploads, take_in
from asynch.storage import Inviting
from asynch.store import files as store
from asynch.store.files import NewUpload
from asynch.store.oplog import Operation, insert_op_logs


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where the bytes go, and by when."""

    file_name: str
    urls: list[str]
    expire_at: float  #: seconds since 1970


@dataclass(frozen=True, slots=True)
class Direct:
    """The use cases and what they need to know of this installation."""

    uploads: Uploads
    ttl_s: float

    def invite(self, caller: Caller, told: Told, *, size: int, content_type: str, parts: int) -> Invitation:
        """Begin an upload past this service. TooLarge, Unsupported, Conflict where the storage takes none."""
        storage = self._storage()
        expect_size(size, self.uploads.max_size)
        expect_type(content_type, self.uploads.types)
        tenant_id = caller.principal.tenant_id
        upload = NewUpload(
            user=caller.principal.user,
            filename=shown_name(told.name),
            file_hash="",
            file_size=size,
            content_type=content_type,
            status=Status.PENDING,
            scene=told.scene,
            upload_id=told.upload_id,
            tags=told.tags,
            upload_headers=caller.upload_headers,
            parts=parts,
        )
        with db.transaction(self.uploads.pool) as conn:
            upload_id = store.insert_upload(conn, tenant_id=tenant_id, upload=upload)
            insert_op_logs(conn, caller, "uploadFile", [Operation(task_id=str(upload_id))])
        expire_at = time.time() + self.ttl_s
        urls = [storage.invite(key, size=size, ttl_s=self.ttl_s) for key in staged_keys(tenant_id, upload_id, parts)]
        return Invitation(staged_name(tenant_id, upload_id), urls, expire_at)

    def confirm(self, caller: Caller, file_name: str, scene: str) -> Received:
        """All bytes are in storage: have them taken in, once. NotFound, Conflict, TooLarge."""
        tenant_id = caller.principal.tenant_id
        upload_id = staged_id(file_name, tenant_id)
        with db.connection(self.uploads.pool) as conn:
            row = store.find_upload(conn, tenant_id=tenant_id, upload_id=upload_id)
        if row is None or not row["parts"]:
            raise NotFound("There is no such upload.")
        if row["status"] == Status.PENDING:
            self._check_there(row)
            with db.transaction(self.uploads.pool) as conn:
                take_in(conn, "", caller, row["id"], row["content_type"], row["parts"], scene=scene or row["scene"])
        elif row["status"] == Status.FAILED:
            raise Conflict(f"The upload has ended: {row['error_msg']}.")
        return Received(str(upload_id), row["repository_identity"])

    def _check_there(self, row: Row) -> None:
        storage = self._storage()
        sizes = [storage.size(key) for key in staged_keys(row["tenant_id"], row["id"], row["parts"])]
        there = [size for size in sizes if size is not None]
        if len(there) < len(sizes):
            missing = "The object is not there yet." if len(sizes) == 1 else "Not all parts are there yet."
            raise Conflict(missing, code="object_missing")
        expect_size(sum(there), self.uploads.max_size)
        if sum(there) != row["file_size"]:
            detail = f"{sum(there)} bytes are there, {row['file_size']} were announced."
            raise Conflict(detail, code="size_mismatch")

    def _storage(self) -> Inviting:
        storage = self.uploads.storage
        if not isinstance(storage, Inviting):
            raise Conflict("This storage takes no files past the service.", code="not_offered")
        return storage
