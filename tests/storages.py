"""The storages that tests try, and what is put in them and fetched from their links."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import requests
from flask import Flask, request, send_file
from minio import Minio
from werkzeug.serving import make_server

from asynch.errors import Forbidden, NotFound
from asynch.storage import Storage
from asynch.storage.http import HttpStorage
from asynch.storage.local import LocalStorage
from asynch.storage.minio import MinioStorage

if TYPE_CHECKING:
    from tests.seaweed import Seaweed
    from tests.upload_service import UploadService

MakeStorage = Callable[..., Storage]
PLAIN = "text/plain"


@pytest.fixture
def make_local(tmp_path: Path) -> Iterator[Callable[..., LocalStorage]]:
    """Local storages in `tmp_path/files`, their URLs served the way the web layer does it."""
    app = Flask("files")
    app.register_error_handler(Forbidden, lambda _: ("", 403))
    app.register_error_handler(NotFound, lambda _: ("", 404))
    server = make_server("127.0.0.1", 0, app, threaded=True)

    def make(**options: Any) -> LocalStorage:
        given = {"base_url": f"http://127.0.0.1:{server.server_port}", "signing_key": b"k" * 32, "url_ttl_s": 60}
        return LocalStorage(tmp_path / "files", **{**given, **options})

    @app.get("/files/<path:key>")
    def serve(key: str) -> Any:
        served = make().verify(key, request.args)
        kind, name = served.content_type, served.filename
        return send_file(served.path, mimetype=kind, as_attachment=True, download_name=name, conditional=True)

    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    yield make
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def make_minio(seaweed: Seaweed) -> Callable[..., MinioStorage]:
    """Storages on the real S3 server, all in one fresh bucket that nobody has made yet."""
    bucket = f"bucket-{uuid4().hex}"

    def make(**options: Any) -> MinioStorage:
        given = {
            "endpoint": seaweed.endpoint,
            "public_endpoint": "",
            "access_key": seaweed.access_key,
            "secret_key": seaweed.secret_key,
            "bucket": bucket,
            "secure": False,
            "region": "us-east-1",
            "url_ttl_s": 60,
        }
        return MinioStorage(**{**given, **options})

    return make


@pytest.fixture
def make_http(uploads: UploadService) -> Callable[..., HttpStorage]:
    return uploads.storage


@pytest.fixture
def local(make_local: Callable[..., LocalStorage]) -> LocalStorage:
    return make_local()


def fetch(storage: Storage, address: str, *, filename: str = "f.txt", **headers: str) -> requests.Response:
    return get(storage.url(address, filename=filename, content_type=PLAIN), **headers)


def get(url: str, **headers: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers=headers, timeout=10)


def write(path: Path, body: bytes) -> Path:
    """A new file each time: a storage may keep a link to the one it was given."""
    path = path.with_name(f"{path.name}-{uuid4().hex}")
    path.write_bytes(body)
    return path


def big_file(path: Path, mib: int) -> str:
    """Write `mib` MiB, no two alike; answers their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for number in range(mib):
            block = number.to_bytes(4, "big") * (1 << 18)
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def sha256_at(url: str) -> str:
    """The SHA-256 of what a link leads to, read piece by piece."""
    digest = hashlib.sha256()
    with requests.get(url, stream=True, timeout=10) as response:
        assert response.status_code == 200
        for block in response.iter_content(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def admin(seaweed: Seaweed) -> Minio:
    return Minio(seaweed.endpoint, seaweed.access_key, seaweed.secret_key, secure=False, region="us-east-1")


def objects(seaweed: Seaweed, storage: Storage) -> list[str]:
    """The keys in the bucket of an S3 storage."""
    assert isinstance(storage, MinioStorage)
    found = admin(seaweed).list_objects(bucket_name=storage._bucket, recursive=True)
    return [str(each.object_name) for each in found]
