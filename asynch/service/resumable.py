"""Uploads that come in pieces: begun, taken over, whole, given up; the bytes are on the disk of one host."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from asynch import db
from asynch.db import Pool, Row
from asynch.domain.principal import Caller
from asynch.domain.uploads import Status, is_among, shown_name
from asynch.errors import ChecksumMismatch, Conflict, Gone, NotFound, Overloaded, TooLarge, Unsupported
from asynch.incoming import Incoming
from asynch.partial import Partial, TurnOver, WrongOffset, pieces_of, spooled
from asynch.service.intake import expect_size
from asynch.service.uploads import Told, Uploads, take_in
from asynch.store import files as store
from asynch.store.files import NewUpload
from asynch.store.oplog import Operation, insert_op_logs

#: A type is told by so many bytes, or by all of a smaller file.
_TELLING_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of one piece must hash to."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an upload stands."""

    upload_id: int
    offset: int
    length: int
    expire_at: float | None  #: seconds since 1970; None once all bytes are there
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Resumable:
    """The use cases and what they need to know of this installation."""

    uploads: Uploads
    ttl_s: float

    @property
    def _pool(self) -> Pool:
        return self.uploads.pool

    @property
    def _incoming(self) -> Incoming:
        return self.uploads.incoming

    def begin(self, caller: Caller, length: int, told: Told, *, sha256: str = "", metadata: str = "") -> Standing:
        """A new upload, whole already where the tenant has this content. TooLarge, TmpUnavailable."""
        expect_size(length, self.uploads.max_size)
        if sha256:
            try:
                known = self.uploads.known(caller, sha256, told)
                return Standing(int(known.task_id), length, length, None, metadata)
            except NotFound:
                pass  # its bytes are needed
        upload = NewUpload(
            user=caller.principal.user,
            filename=shown_name(told.name),
            file_hash="",
            file_size=length,
            content_type="",
            status=Status.PENDING,
            scene=told.scene,
            upload_id=told.upload_id,
            tags=told.tags,
            metadata=metadata,
            tmp_host=self._incoming.host_id,
            upload_headers=caller.upload_headers,
        )
        tenant_id = caller.principal.tenant_id
        with db.transaction(self._pool) as conn:
            upload_id = store.insert_upload(conn, tenant_id=tenant_id, upload=upload)
            self._incoming.partial(tenant_id, upload_id, length).create()
            insert_op_logs(conn, caller, "uploadFile", [Operation(task_id=str(upload_id))])
        return Standing(upload_id, 0, length, time.time() + self.ttl_s, metadata)

    def stand(self, caller: Caller, upload_id: int) -> Standing:
        """Where it stands; whoever still writes is over, so that nothing changes behind it. NotFound, Gone."""
        row, file = self._found(caller, upload_id)
        if file is None:
            return Standing(upload_id, row["file_size"], row["file_size"], None, row["metadata"])
        try:
            offset = file.take_over()
        except FileNotFoundError as exc:
            raise Gone("The upload has expired.") from exc
        return self._standing(caller, row, file, offset)

    def append(
        self, caller: Caller, upload_id: int, offset: int, pieces: Iterable[bytes], checksum: Checksum | None
    ) -> Standing:
        """Write pieces from `offset` on. NotFound, Gone, Conflict, ChecksumMismatch, TooLarge, Unsupported."""
        row, file = self._found(caller, upload_id)
        if file is None:
            if offset != row["file_size"]:
                raise Conflict("The upload is whole.", code="wrong_offset")
            return Standing(upload_id, offset, offset, None, row["metadata"])
        held = _up_to(pieces, file.length - offset)
        try:
            if checksum is None:
                reached = file.append(offset, held)
            else:
                reached = self._append_checked(file, offset, held, checksum)
        except WrongOffset as exc:
            raise Conflict(f"The offset is {exc.offset}.", code="wrong_offset") from exc
        except TurnOver as exc:
            raise Conflict("Another request has taken the upload over.", code="taken_over") from exc
        except FileNotFoundError as exc:
            raise Gone("The upload has expired.") from exc
        return self._standing(caller, row, file, reached)

    def _append_checked(self, file: Partial, offset: int, pieces: Iterable[bytes], checksum: Checksum) -> int:
        digest, copy = spooled(self._incoming.directory, pieces, checksum.algorithm)
        with copy:
            if digest != checksum.digest:
                raise ChecksumMismatch("The bytes that came do not have this checksum.")
            return file.append(offset, pieces_of(copy))

    def give_up(self, caller: Caller, upload_id: int) -> None:
        """End it: its bytes go. NotFound, Gone; Conflict once all bytes are there."""
        row, file = self._found(caller, upload_id)
        if file is None:
            raise Conflict("The upload is whole: its file is being processed, or is stored.")
        self._fail(caller.principal.tenant_id, row["id"], "ended by its sender")
        file.remove()

    def _found(self, caller: Caller, upload_id: int) -> tuple[Row, Partial | None]:
        """The row, and the file while bytes are missing."""
        tenant_id = caller.principal.tenant_id
        with db.connection(self._pool) as conn:
            row = store.find_upload(conn, tenant_id=tenant_id, upload_id=upload_id)
        if row is None or (row["parts"] and row["status"] == Status.PENDING):  # the bytes of that one go elsewhere
            raise NotFound("There is no such upload.")
        status = Status(row["status"])
        if status is Status.FAILED:
            raise Gone(f"The upload has ended: {row['error_msg']}.")
        if status is not Status.PENDING:
            return row, None
        if row["tmp_host"] != self._incoming.host_id:
            raise Overloaded("The upload is on another host.", code="other_host")
        return row, self._incoming.partial(tenant_id, upload_id, row["file_size"])

    def _standing(self, caller: Caller, row: Row, file: Partial, offset: int) -> Standing:
        """Where it stands now, having it processed if that is the end. Unsupported."""
        self._check_type(caller, row, file, offset)
        if offset >= file.length:
            kind = file.kind
            parts = self.uploads.stage(caller.principal.tenant_id, row["id"], file.path, kind)
            with db.transaction(self._pool) as conn:
                take_in(conn, self._incoming.host_id, caller, row["id"], kind.content_type, parts)
            if parts:
                file.remove()
            return Standing(row["id"], offset, file.length, None, row["metadata"])
        return Standing(row["id"], offset, file.length, file.changed_at + self.ttl_s, row["metadata"])

    def _check_type(self, caller: Caller, row: Row, file: Partial, offset: int) -> None:
        """Refuse as soon as its type can be told."""
        if offset < min(file.length, _TELLING_BYTES):
            return
        kind = file.kind
        if not is_among(kind.content_type, self.uploads.types):
            reason = f"files of this type are not taken: {kind.content_type}"
            self._fail(caller.principal.tenant_id, row["id"], reason)
            file.remove()
            raise Unsupported(f"{reason[0].upper()}{reason[1:]}.")

    def _fail(self, tenant_id: int, upload_id: int, reason: str) -> None:
        with db.transaction(self._pool) as conn:
            store.end_upload(conn, tenant_id=tenant_id, upload_id=upload_id, status=Status.FAILED, error=reason)


def _up_to(pieces: Iterable[bytes], most: int) -> Iterable[bytes]:
    """The pieces, as long as they are no more than what is missing. TooLarge, having given all that fit."""
    for piece in pieces:
        if len(piece) > most:
            yield piece[:most]
            raise TooLarge("More bytes came than Upload-Length says.")
        yield piece
        most -= len(piece)
