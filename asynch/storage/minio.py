"""The S3 backend: objects in one bucket, through the minio client; every failure leaves as StorageError."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from io import BytesIO
from os import fstat
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote
from uuid import uuid4
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.datatypes import Object
from minio.error import MinioException, S3Error
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from asynch.errors import SettingsError, StorageError

_TIMEOUT = Timeout(connect=5, read=60)
#: Few tries, since the task's own retry comes later. Every verb: each S3 call made here may be repeated, and
#: `_upload` sorts out the one whose repetition fails (CompleteMultipartUpload).
_RETRY = Retry(
    total=2,
    connect=1,
    read=1,
    backoff_factor=0.2,
    status_forcelist=(500, 502, 503, 504),
    allowed_methods=None,
)
_BLOCK = 1 << 18
#: kept open at most; more threads than these still get a connection, but a new one each time
_CONNECTIONS = 32

#: what the client and all below it raise: OSError and ValueError too, ParseError for a broken XML answer
_FAILURES = (MinioException, HTTPError, OSError, ValueError, ParseError)
_MISSING = frozenset({"NoSuchKey", "NoSuchBucket"})
_BUCKET_IS_THERE = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
#: metadata with a value of its own for each put: the proof that the object which is there came from this one
_PUT_ID = "x-amz-meta-asynch-put"
#: the longest life of a presigned URL (AWS Signature Version 4, query parameters)
_LONGEST_TTL_S = 7 * 24 * 3600


class MinioStorage:
    """A bucket of an S3-compatible store, made on first use if it is missing.

    `endpoint` and `public_endpoint` (as downloaders see the store; empty: the same) are host[:port]; a scheme
    in front decides instead of `secure`. URLs are signed without asking the store.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        public_endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        secure: bool,
        region: str,
        url_ttl_s: int,
        public_base_url: str = "",
    ) -> None:
        if not access_key or not secret_key:
            raise SettingsError("storage.minio.access_key, secret_key: empty, expected credentials")
        if not 0 < url_ttl_s <= _LONGEST_TTL_S:
            raise SettingsError(f"storage.url_ttl: {url_ttl_s}s, expected 1s to 7d with backend minio")
        keys = (access_key, secret_key)
        self._client = _connect("endpoint", endpoint, keys, secure=secure, region=region)
        self._signer = self._client
        if public_endpoint:
            self._signer = _connect("public_endpoint", public_endpoint, keys, secure=secure, region=region)
        self._bucket = bucket
        self._bucket_seen = False
        self._url_ttl = timedelta(seconds=url_ttl_s)
        self._public_base_url = public_base_url.rstrip("/")

    def put(
        self,
        key: str,
        path: Path,
        content_type: str,
        *,
        sender: Mapping[str, str] | None = None,  # noqa: ARG002 -- the bucket knows its own keys only
    ) -> str:
        """Store the file, one part in memory at a time; FileNotFoundError passes if `path` is gone."""
        with path.open("rb") as source, _wrapped(f"put {key}"):
            self._make_bucket()
            self._upload(key, source, fstat(source.fileno()).st_size, content_type)
        return key

    def url(self, key: str, *, filename: str, content_type: str) -> str:
        """Presign a GET that answers as a download with that name and type."""
        if self._public_base_url:
            return f"{self._public_base_url}/{quote(key)}"
        with _wrapped(f"sign {key}"):
            return self._signer.presigned_get_object(
                bucket_name=self._bucket,
                object_name=key,
                expires=self._url_ttl,
                response_headers={
                    "response-content-disposition": _disposition(filename),
                    "response-content-type": content_type,
                },
            )

    def fetch(self, key: str, path: Path) -> None:
        """Stream the object into the file."""
        with path.open("xb") as target:
            blocks = self._blocks(key)
            while True:
                with _wrapped(f"fetch {key}"):
                    block = next(blocks, b"")
                if not block:
                    return
                target.write(block)

    def _blocks(self, key: str) -> Iterator[bytes]:
        response = self._client.get_object(bucket_name=self._bucket, object_name=key)
        try:
            yield from response.stream(_BLOCK)
        finally:
            response.close()
            response.release_conn()

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there, or a bucket that is not, is fine."""
        with _wrapped(f"delete {key}"):
            try:
                self._client.remove_object(bucket_name=self._bucket, object_name=key)
            except S3Error as exc:
                if exc.code not in _MISSING:
                    raise

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        with _wrapped(f"look for {key}"):
            return self._find(key) is not None

    def invite(self, key: str, *, size: int, ttl_s: float) -> str:  # noqa: ARG002 - it takes what comes
        """Presign a PUT."""
        with _wrapped(f"sign {key}"):
            self._make_bucket()
            return self._signer.presigned_put_object(
                bucket_name=self._bucket,
                object_name=key,
                expires=timedelta(seconds=min(ttl_s, _LONGEST_TTL_S)),
            )

    def size(self, key: str) -> int | None:
        """How many bytes the object has."""
        with _wrapped(f"look for {key}"):
            found = self._find(key)
            return None if found is None else found.size

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002 - the protocol's
        """Nothing: parts of a put whose process died are removed by a lifecycle rule of the bucket."""
        return 0

    def check(self) -> str:
        """Write, read and delete a small object."""
        key, body = f"check/{uuid4().hex}", b"asynch"
        with _wrapped("check"):
            self._make_bucket()
            self._upload(key, BytesIO(body), len(body), "text/plain")
            try:
                came_back = self._read(key)
            finally:
                self._client.remove_object(bucket_name=self._bucket, object_name=key)
        if came_back != body:
            raise StorageError("check: the store gives back other bytes than were written")
        return "wrote, read and deleted an object"

    def _make_bucket(self) -> None:
        """Make the bucket unless it is there; of two that do so at once the second is as content."""
        if self._bucket_seen:
            return
        if not self._client.bucket_exists(bucket_name=self._bucket):
            try:
                self._client.make_bucket(bucket_name=self._bucket)
            except S3Error as exc:
                if exc.code not in _BUCKET_IS_THERE:
                    raise
        self._bucket_seen = True

    def _upload(self, key: str, source: BinaryIO, size: int, content_type: str) -> None:
        """One request up to 5 MiB, else parts of 5 MiB, larger above 50 GB (10,000 parts are S3's limit).

        CompleteMultipartUpload is not idempotent everywhere: when its answer is lost, its repetition and the
        client's own abort say NoSuchUpload although the object is there (minio/minio#13318).
        """
        put_id = uuid4().hex
        try:
            self._client.put_object(
                bucket_name=self._bucket,
                object_name=key,
                data=source,
                length=size,
                content_type=content_type,
                metadata={_PUT_ID: put_id},
                num_parallel_uploads=1,  # more would each hold a part in memory
            )
        except _FAILURES:
            if not self._has_landed(key, put_id):
                raise

    def _has_landed(self, key: str, put_id: str) -> bool:
        """Whether the object there is the one of this put; False also when the store does not say."""
        with suppress(*_FAILURES):
            found = self._find(key)
            return found is not None and (found.metadata or {}).get(_PUT_ID) == put_id
        return False

    def _find(self, key: str) -> Object | None:
        try:
            return self._client.stat_object(bucket_name=self._bucket, object_name=key)
        except S3Error as exc:
            if exc.code in _MISSING:
                return None
            raise

    def _read(self, key: str) -> bytes:
        response = self._client.get_object(bucket_name=self._bucket, object_name=key)
        try:
            return response.data
        finally:
            response.close()
            response.release_conn()


def _connect(setting: str, address: str, keys: tuple[str, str], *, secure: bool, region: str) -> Minio:
    """A client that gives up early; certificates are checked against the system's own authorities."""
    scheme, _, host = address.rpartition("://")
    try:
        return Minio(
            host,
            access_key=keys[0],
            secret_key=keys[1],
            secure=scheme == "https" if scheme else secure,
            region=region or "us-east-1",  # without one, each signature would ask the store for it
            http_client=PoolManager(maxsize=_CONNECTIONS, timeout=_TIMEOUT, retries=_RETRY),
        )
    except ValueError as exc:
        raise SettingsError(f"storage.minio.{setting}: {address!r}, expected host:port ({exc})") from exc


@contextmanager
def _wrapped(action: str) -> Iterator[None]:
    """Turn the client's errors into StorageError; the text is cut, it may be a proxy's whole error page."""
    try:
        yield
    except _FAILURES as exc:
        raise StorageError(f"{action}: {str(exc)[:500]}") from exc


def _disposition(filename: str) -> str:
    """RFC 6266: always a download, with the name in full (RFC 8187) and in ASCII for old clients."""
    plain = re.sub(r"[^ !#$&-\[\]-~]", "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
