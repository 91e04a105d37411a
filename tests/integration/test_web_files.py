from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from asynch.secretbox import SecretBox
from asynch.storage.local import LocalStorage
from tests.live import KEY, Live, MakeParts, serving

BODY = b"0123456789" * 100


@pytest.fixture
def link(live: Live, tmp_path: Path) -> str:
    """The path and query of a signed link to a page a model made."""
    return stored(live, tmp_path)


def stored(live: Live, tmp_path: Path, content_type: str = "text/html", filename: str = "page.html") -> str:
    source = tmp_path / "source"
    source.write_bytes(BODY)
    live.parts.storage.put("t0/page", source, content_type)
    parts = urlsplit(live.parts.storage.url("t0/page", filename=filename, content_type=content_type))
    return f"{parts.path}?{parts.query}"


def fetch(live: Live, link: str, method: str = "GET", **headers: str) -> requests.Response:
    return live.call(method, link, headers=headers)


def test_a_signed_link_gives_the_file_to_anybody(live: Live, link: str) -> None:
    answer = fetch(live, link, Host="files.example", Origin="https://app.example.com")

    assert (answer.status_code, answer.content) == (200, BODY)


def test_a_file_is_never_run_by_a_browser(live: Live, link: str) -> None:
    headers = fetch(live, link).headers

    assert headers["Content-Disposition"].startswith("attachment")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert "private" in headers["Cache-Control"]
    assert headers["Content-Type"] == "text/html"


def test_a_download_name_may_be_in_any_script(live: Live, tmp_path: Path) -> None:
    headers = fetch(live, stored(live, tmp_path, filename='r"é李.txt')).headers

    assert "filename*=UTF-8''r%22%C3%A9%E6%9D%8E.txt" in headers["Content-Disposition"]


def test_head_tells_the_size_alone(live: Live, link: str) -> None:
    answer = fetch(live, link, "HEAD")

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(BODY))


@pytest.mark.parametrize(
    ("wanted", "first", "last"), [("bytes=0-9", 0, 9), ("bytes=990-", 990, 999), ("bytes=-5", 995, 999)]
)
def test_a_range_gives_that_part(live: Live, link: str, wanted: str, first: int, last: int) -> None:
    answer = fetch(live, link, Range=wanted)

    assert (answer.status_code, answer.content) == (206, BODY[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(BODY)}"


def test_a_range_beyond_the_end_is_416_with_the_size(live: Live, link: str) -> None:
    answer = fetch(live, link, Range="bytes=5000-")

    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(BODY)}"


def test_a_file_that_is_known_is_not_sent_again(live: Live, link: str) -> None:
    tag = fetch(live, link).headers["ETag"]
    answer = fetch(live, link, **{"If-None-Match": tag})

    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize(
    "change", [("page?", "pagf?"), ("text/html", "text/plain"), ("expires=", "expires=9"), ("?", "?x=1&signature=a&")]
)
def test_an_altered_link_is_403(live: Live, link: str, change: tuple[str, str]) -> None:
    altered = link.replace(*change)
    assert altered != link

    assert fetch(live, altered).status_code == 403


def test_a_deleted_file_is_404(live: Live, link: str) -> None:
    live.parts.storage.delete("t0/page")

    assert fetch(live, link).status_code == 404


@pytest.mark.parametrize("path", ["..%2f..%2fetc%2fpasswd", ".store-id", "%00", "a//b", "../../etc/passwd"])
def test_no_path_leads_out(live: Live, path: str) -> None:
    assert fetch(live, f"/files/{path}").status_code in (403, 404, 308)


class Elsewhere:
    """A store whose links lead to another server."""

    def check(self) -> None:
        """Works."""


@pytest.fixture
def remote(make_parts: MakeParts) -> Iterator[Live]:
    parts = make_parts()
    object.__setattr__(parts, "storage", Elsewhere())
    with serving(parts) as running:
        yield running


def test_another_backend_serves_no_files_here(remote: Live, tmp_path: Path) -> None:
    local = LocalStorage(
        tmp_path / "own", base_url="http://h", signing_key=SecretBox([KEY]).signing_key("files"), url_ttl_s=60
    )
    signed = urlsplit(local.url("t0/page", filename="f", content_type="text/plain"))

    assert fetch(remote, f"{signed.path}?{signed.query}").status_code == 404
