"""Files that go straight into storage: invited, confirmed, taken in by any worker, or forgotten."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import requests

from asynch import db
from asynch.cleaner.unneeded import unneeded
from asynch.cleaner.unsent import unsent
from asynch.storage.http import HttpStorage
from asynch.storage.minio import MinioStorage
from asynch.web import Parts
from tests.live import MakeParts, serving
from tests.seaweed import Seaweed
from tests.sending import ended
from tests.task_api import CLEANER, NOWHERE, Api, problem, working
from tests.waiting import until

PNG = b"\x89PNG\r\n\x1a\n" + os.urandom(150_000)


@pytest.fixture(params=["local", "minio"])
def shop(request: pytest.FixtureRequest, make_parts: MakeParts) -> Iterator[tuple[Api, dict[str, Any]]]:
    """A server on each storage that takes files directly, and the settings a worker needs to share it."""
    if request.param == "local":
        with serving(make_parts()) as live:
            yield Api(live), {}
        return
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    minio = {
        "endpoint": seaweed.endpoint, "access_key": seaweed.access_key, "secret_key": seaweed.secret_key,
        "bucket": f"direct-{uuid4().hex[:12]}", "secure": False,
    }  # fmt: skip
    made = make_parts(storage={"backend": "minio", "minio": minio})
    storage = MinioStorage(**minio, public_endpoint="", region="", url_ttl_s=3600)
    with serving(Parts(made.settings, made.pool, made.box, storage)) as live:
        yield Api(live), {"storage": {"backend": "minio", "minio": minio}}


def presign(api: Api, size: int = len(PNG), **fields: Any) -> requests.Response:
    asked = {"name": "a.png", "size": size, "content_type": "image/png", **fields}
    return api.call("POST", "/api/file/presign", asked)


def put(api: Api, url: str, body: bytes) -> int:
    here = url.replace("http://127.0.0.1/", f"{api.live.url}/")  # of a server whose settings know no port
    return api.live.session.put(here, data=body, timeout=10).status_code


def confirm(api: Api, file_name: str, **fields: Any) -> requests.Response:
    return api.call("POST", "/api/file/confirm", {"file_name": file_name, **fields})


def got(api: Api, url: str) -> requests.Response:
    return api.live.session.get(url.replace("http://127.0.0.1/", f"{api.live.url}/"), timeout=10)


def fetched(api: Api, url: str) -> bytes:
    return got(api, url).content


Shop = tuple[Api, dict[str, Any]]


def test_a_file_that_is_put_and_confirmed_is_taken_in(shop: Shop, dsn: str) -> None:
    api, storage = shop
    invited = presign(api).json()
    assert set(invited) == {"file_name", "url", "headers", "expires_at"}
    assert put(api, invited["url"], PNG) in (200, 201, 204)
    taken = confirm(api, invited["file_name"], scene="direct").json()
    assert taken["status"] == "received"

    with working(api.live, dsn, **storage):
        told = ended(api, taken["task_id"])
    assert told["status"] == "completed", told
    file = api.call("GET", f"/api/file/{told['repository_id']}").json()
    assert (file["sha256"], file["scene"]) == (hashlib.sha256(PNG).hexdigest(), "direct")
    assert fetched(api, file["url"]) == PNG
    until(lambda: not api.live.parts.storage.exists(invited["file_name"]), 10)


def test_what_a_sender_calls_his_file_is_not_what_it_is_served_as(shop: Shop, dsn: str) -> None:
    api, storage = shop
    invited = presign(api, content_type="text/plain").json()
    put(api, invited["url"], PNG)
    task_id = confirm(api, invited["file_name"]).json()["task_id"]

    with working(api.live, dsn, **storage):
        told = ended(api, task_id)
    answer = got(api, told["oss_path"])
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")


def test_a_confirmation_again_tells_the_same(shop: Shop, dsn: str) -> None:
    api, storage = shop
    invited = presign(api).json()
    put(api, invited["url"], PNG)
    first, again = confirm(api, invited["file_name"]).json(), confirm(api, invited["file_name"]).json()
    assert first == again
    with working(api.live, dsn, **storage):
        identity = ended(api, first["task_id"])["repository_id"]

    last = confirm(api, invited["file_name"]).json()
    assert (last["identity"], last["status"]) == (identity, "completed")


def test_parts_are_put_together_in_their_order(shop: Shop, dsn: str) -> None:
    api, storage = shop
    invited = presign(api, parts=3).json()
    pieces = [PNG[:50_000], PNG[50_000:60_000], PNG[60_000:]]
    for url, piece in reversed(list(zip(invited["urls"], pieces, strict=True))):
        put(api, url, piece)
    task_id = confirm(api, invited["file_name"]).json()["task_id"]

    with working(api.live, dsn, **storage):
        told = ended(api, task_id)
    assert fetched(api, told["oss_path"]) == PNG


def test_what_is_not_there_cannot_be_confirmed(shop: Shop) -> None:
    api, _ = shop
    one, several = presign(api).json(), presign(api, parts=2).json()
    put(api, several["urls"][0], PNG[:1000])

    assert problem(confirm(api, one["file_name"])) == (409, "object_missing")
    assert problem(confirm(api, several["file_name"])) == (409, "object_missing")


def test_another_size_than_announced_is_not_taken(shop: Shop) -> None:
    api, _ = shop
    invited = presign(api).json()
    put(api, invited["url"], PNG[:-1])

    assert problem(confirm(api, invited["file_name"])) == (409, "size_mismatch")


def test_a_type_by_content_that_is_not_taken_fails_the_upload(shop: Shop, dsn: str) -> None:
    api, storage = shop
    body = b"MZ\x90\0" + bytes(1000)
    invited = presign(api, size=len(body)).json()
    put(api, invited["url"], body)
    task_id = confirm(api, invited["file_name"]).json()["task_id"]

    with working(api.live, dsn, **storage):
        told = ended(api, task_id)
    assert (told["status"], told["error"]) == ("failed", "files of this type are not taken: application/octet-stream")
    until(lambda: not api.live.parts.storage.exists(invited["file_name"]), 10)


def test_what_is_never_confirmed_goes(shop: Shop, pool: db.Pool) -> None:
    api, _ = shop
    invited = presign(api).json()
    put(api, invited["url"], PNG)
    assert unsent(pool, CLEANER) == 0
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_upload SET created_at = now() - interval '2 days'")

    assert unsent(pool, CLEANER) == 1
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_unneeded SET created_at = now() - interval '2 minutes'")
    assert unneeded(pool, CLEANER, api.live.parts.storage) == 1
    assert not api.live.parts.storage.exists(invited["file_name"])
    assert problem(confirm(api, invited["file_name"]))[0] == 409


def test_another_tenants_upload_is_not_there(shop: Shop) -> None:
    api, _ = shop
    invited = presign(api).json()
    put(api, invited["url"], PNG)

    assert problem(confirm(api.of(9), invited["file_name"])) == (404, "not_found")
    assert problem(confirm(api, "../direct/1")) == (404, "not_found")


def test_an_invited_upload_takes_no_pieces(api: Api) -> None:
    upload_id = presign(api).json()["file_name"].rpartition("/")[2]
    answer = api.call("HEAD", f"/api/file/tus/{upload_id}", headers={"Tus-Resumable": "1.0.0"})

    assert answer.status_code == 404


def test_limits_hold_before_anything_is_put(api: Api) -> None:
    most = api.live.parts.settings.uploads.max_size

    assert presign(api, size=most + 1).status_code == 413
    assert presign(api, content_type="text/html").status_code == 415
    assert presign(api, size=-1).status_code == 422
    assert presign(api, parts=0).status_code == 422


@pytest.mark.parametrize(
    ("change", "status"),
    [(lambda u: u.replace("size=", "size=9"), 403), (lambda u: u.replace("/direct/", "/direkt/"), 403)],
)
def test_a_local_link_takes_what_it_was_signed_for(api: Api, change: Callable[[str], str], status: int) -> None:
    invited = presign(api).json()

    assert put(api, change(invited["url"]), PNG) == status
    assert put(api, invited["url"], PNG + b"x") == 413
    assert not api.live.parts.storage.exists(invited["file_name"])


def test_a_storage_that_takes_none_says_so(make_parts: MakeParts) -> None:
    parts = make_parts(storage={"backend": "http", "http": {"upload_url": NOWHERE}})
    storage = HttpStorage(upload_url=NOWHERE, url_field="fileUrl", headers={}, delete_url="")
    with serving(Parts(parts.settings, parts.pool, parts.box, storage)) as live:
        assert problem(presign(Api(live))) == (409, "not_offered")
