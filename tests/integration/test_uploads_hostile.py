"""What a sender of files may try with other ends in mind: it is refused or harmless, and never a fault of the service."""

from __future__ import annotations

import base64
import gzip
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from asynch import db
from tests.database import all_rows
from tests.sending import incoming
from tests.served import Served
from tests.task_api import Api, pointers, problem

PNG = b"\x89PNG\r\n\x1a\n" + bytes(2000)
TUS = {"Tus-Resumable": "1.0.0"}
PIECE = {**TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
MULTIPART = "multipart/form-data; boundary=x"
MOST_ID = 2**63 - 1


def part(value: bytes, name: str = "file", more: str = "") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), more.encode(), value)


FILE = part(PNG, more='; filename="a.png"')
END = b"--x--\r\n"


def form(api: Api, *parts: bytes, kind: str = MULTIPART, **headers: str) -> requests.Response:
    given = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return api.call("POST", "/api/file/upload", b"".join(parts), headers=given)


def begin(api: Api, metadata: str = "", length: str = "5") -> requests.Response:
    given = {**TUS, "Upload-Length": length, "Upload-Metadata": metadata}
    return api.call("POST", "/api/file/tus", b"", headers=given)


def coded(value: bytes) -> str:
    return base64.b64encode(value).decode()


# Texts that cannot be stored


@pytest.mark.parametrize("name", ["scene", "tags", "upload_id", "sha256"])
@pytest.mark.parametrize("value", [b"a\0b", b"a" * 500])
def test_a_field_that_cannot_be_stored_is_a_mistake_with_its_place(api: Api, name: str, value: bytes) -> None:
    for order in ([part(value, name), FILE], [FILE, part(value, name)]):
        (found,) = pointers(form(api, *order, END))
        assert found.startswith(f"#/{name}")
    assert incoming(api) == []


@pytest.mark.parametrize("value", [b"\xed\xa0\x80", b"\xff\xfe", b"\xf0\x9f\x98\x80", "\u202e".encode(), b""])
@pytest.mark.parametrize("name", ["scene", "tags", "upload_id"])
def test_bytes_that_are_no_text_harm_nobody(api: Api, name: str, value: bytes) -> None:
    assert form(api, FILE, part(value, name), END).status_code == 200
    assert api.call("GET", "/api/file/upload/tasks").status_code == 200


@pytest.mark.parametrize("filename", ["a\0b.png", "x" * 10_000 + ".png", "a\tb\x7f.png", '\\"\\".png', "", "..\\..\\a"])
def test_a_name_is_shown_whatever_it_was(api: Api, filename: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'
    answer = form(api, head % filename.encode(), PNG, b"\r\n", END)

    assert answer.status_code == 200, answer.text
    shown = api.call("GET", f"/api/file/upload/progress/{answer.json()['task_id']}").json()["filename"]
    assert 0 < len(shown) <= 255
    assert "\0" not in shown


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        (f"filename {coded(b'a' + bytes(1) + b'.png')}", 201),
        (f"filename {coded(b'x' * 6000)}", 201),
        (f"scene {coded(bytes(1))}", 422),
        (f"tags {coded(b',' * 3000)}", 201),
        (f"tags {coded(b'a,' * 65)}", 422),
        (f"upload_id {coded(b'u' * 129)}", 422),
        (f"sha256 {coded(b'zz')}", 422),
        (f"filename {coded(b'x' * 7000)}", 400),
        (f"filename {coded(bytes([0xED, 0xA0, 0x80]))}", 400),
        ("filename a", 400),
        ("\xe9 YQ==", 400),
        (",, ,", 201),
        (",".join(f"k{n}" for n in range(1000)), 201),
        ("a b c", 400),
    ],
)  # fmt: skip
def test_metadata_is_taken_or_refused_as_tus_has_it(api: Api, metadata: str, status: int) -> None:
    answer = begin(api, metadata)

    assert answer.status_code == status, answer.text
    if status == 201:
        path = urlsplit(answer.headers["Location"]).path
        assert api.call("HEAD", path, headers=TUS).status_code == 200


@pytest.mark.parametrize("filename", [b"\xed\xa0\x80.png", b"\xff.png", b"a.png\\"])
def test_a_name_that_is_no_text_is_refused(api: Api, filename: bytes) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'

    assert form(api, head % filename, PNG, b"\r\n", END).status_code in (400, 422)
    assert incoming(api) == []


def test_a_file_of_presign_has_no_name_that_cannot_be_stored(api: Api) -> None:
    asked = {"name": "a\0.png", "size": 1, "content_type": "image/png"}
    assert pointers(api.call("POST", "/api/file/presign", asked)) == ["#/name"]
    assert pointers(api.call("POST", "/api/file/presign", {**asked, "name": "a", "scene": "\0"})) == ["#/scene"]
    assert pointers(api.call("POST", "/api/file/confirm", {"file_name": "0/direct/1\0"})) == ["#/file_name"]
    assert problem(api.call("POST", "/api/file/confirm", {"file_name": f"0/direct/{'9' * 19}"})) == (404, "not_found")


@pytest.mark.parametrize("kind", ["image/png\r\nX-A: b", "image/\n", "image/\x7f", "image/é", "image/ png"])
def test_a_type_that_no_header_could_say_is_refused(api: Api, kind: str) -> None:
    asked = {"name": "a.png", "size": 1, "content_type": kind}

    assert api.call("POST", "/api/file/presign", asked).status_code == 422


# Numbers


@pytest.mark.parametrize("number", ["0", "00", str(MOST_ID), str(MOST_ID + 1), "9" * 40, "9" * 4000])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/file/{}"), ("GET", "/api/file/upload/progress/{}"), ("HEAD", "/api/file/tus/{}"),
        ("PATCH", "/api/file/tus/{}"), ("DELETE", "/api/file/tus/{}"),
    ],
)  # fmt: skip
def test_an_id_that_nothing_has_is_not_there(api: Api, method: str, path: str, number: str) -> None:
    assert api.call(method, path.format(number), b"", headers=PIECE).status_code == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("page=2147483647&size=1000", 200), ("page=2147483648", 422), ("page=0", 422), ("page=-1", 422),
        ("size=0", 422), ("size=1001", 422), ("size=1e1", 422), ("page=1&page=2", 422), ("page=%00", 422),
        ("page=", 422), ("tenantId=1", 422), ("page=" + "9" * 5000, 422),
    ],
)  # fmt: skip
def test_a_page_beyond_all_lists_is_empty_or_refused(api: Api, query: str, status: int) -> None:
    assert api.call("GET", f"/api/file/upload/tasks?{query}").status_code == status


@pytest.mark.parametrize("offset", ["-1", "1e3", "5 5", "+5", "٥", "9" * 19, "", "0x5", "1_0"])
def test_an_offset_is_a_plain_number(api: Api, offset: str) -> None:
    path = urlsplit(begin(api).headers["Location"]).path
    answer = api.call("PATCH", path, b"", headers={**PIECE, "Upload-Offset": offset.encode()})  # type: ignore[dict-item]

    assert problem(answer) == (400, "bad_header")


@pytest.mark.parametrize("checksum", ["", "sha1", "sha1 ", "sha1 !", "sha1  YQ==", "SHA1 YQ==", "sha1 YQ", "\xe9 YQ=="])
def test_a_checksum_that_is_none_is_refused(api: Api, checksum: str) -> None:
    path = urlsplit(begin(api).headers["Location"]).path
    answer = api.call("PATCH", path, b"abc", headers={**PIECE, "Upload-Checksum": checksum.encode("latin-1")})  # type: ignore[dict-item]

    assert answer.status_code in (400, 460)


# Forms that are none


@pytest.mark.parametrize(
    ("parts", "kind", "status"),
    [
        ([b""], MULTIPART, 400),
        ([END], MULTIPART, 422),
        ([FILE], MULTIPART, 400),  # no end
        ([FILE, END], "multipart/form-data", 400),
        ([FILE, END], "multipart/form-data; boundary=", 400),
        ([FILE, END], f"multipart/form-data; boundary={'x' * 1000}", 400),
        ([FILE, END], "multipart/form-data; boundary=é", 400),
        ([FILE, END], "multipart/mixed; boundary=x", 415),
        ([FILE, END], "application/x-www-form-urlencoded", 415),
        ([b"--x\r\nContent-Type: text/plain\r\n\r\nhello\r\n", END], MULTIPART, 400),
        ([b"--x\r\nX: " + b"y" * 600_000, b"\r\n\r\nz\r\n", END], MULTIPART, 413),
        ([part(b"1", f"f{n}") for n in range(1000)] + [END], MULTIPART, 413),
        ([part(b"a" * 600_000, "scene"), END], MULTIPART, 413),
        ([FILE, part(b"1", "scene"), part(b"2", "scene"), END], MULTIPART, 422),
        ([FILE, part(b"1", "\r\nscene"), END], MULTIPART, 422),
        ([FILE, FILE, END], MULTIPART, 422),
        ([part(PNG), END], MULTIPART, 422),  # a field, no file
        ([part(PNG, "sha256", '; filename="a.png"'), END], MULTIPART, 422),
    ],
    ids=range(18),
)
def test_a_form_that_is_none_is_refused(api: Api, parts: list[bytes], kind: str, status: int) -> None:
    answer = api.call("POST", "/api/file/upload", b"".join(parts), headers={"Content-Type": kind.encode()})  # type: ignore[dict-item]

    assert (answer.status_code, incoming(api)) == (status, []), answer.text


def test_a_form_within_a_form_is_a_file_like_any_other(api: Api) -> None:
    inner = FILE.replace(b"--x", b"--y") + b"--y--\r\n"
    nested = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    nested += b"Content-Type: multipart/mixed; boundary=y\r\n\r\n" + b"text " * 20 + inner + b"\r\n"

    assert form(api, nested, END).status_code in (200, 415)


def test_a_long_boundary_that_is_right_is_taken(api: Api) -> None:
    long = b"x" * 1000
    body = (FILE + END).replace(b"--x", b"--" + long)

    assert form(api, body, kind=f"multipart/form-data; boundary={long.decode()}").status_code == 200


def test_fields_may_come_before_the_file_and_after_it(api: Api) -> None:
    answer = form(api, b"preamble\r\n", part(b"s", "scene"), FILE, part(b"a,,b,", "tags"), END, b"epilogue")

    assert answer.status_code == 200, answer.text


def test_packed_bytes_are_not_unpacked(api: Api, pool: db.Pool) -> None:
    answer = form(api, gzip.compress(FILE + END), Content_Encoding="gzip")
    assert problem(answer)[0] in (400, 415)
    path = urlsplit(begin(api, length="200").headers["Location"]).path
    packed = gzip.compress(bytes(10_000))
    api.call("PATCH", path, packed, headers={**PIECE, "Content-Encoding": "gzip"})

    assert api.call("HEAD", path, headers=TUS).headers["Upload-Offset"] == str(len(packed))


# Whose page it is


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
        {"Referer": "http://evil.example/"}, {"Host": "evil.example"},
    ],
)  # fmt: skip
def test_a_foreign_page_sends_no_file(api: Api, headers: dict[str, str]) -> None:
    assert form(api, FILE, END, **headers).status_code == 403
    assert api.call("POST", "/api/file/tus", b"", headers={**TUS, "Upload-Length": "5", **headers}).status_code == 403
    assert api.call("OPTIONS", "/api/file/tus", headers=headers).status_code == 403
    asked = {"name": "a.png", "size": 1, "content_type": "image/png"}
    assert api.call("POST", "/api/file/presign", asked, headers=headers).status_code == 403
    assert incoming(api) == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_of_any_page_can_send_reaches_no_other_call(api: Api, kind: str) -> None:
    body = '{"name": "a.png", "size": 1, "content_type": "image/png"}'

    assert api.call("POST", "/api/file/presign", body, headers={"Content-Type": kind}).status_code == 415


# Links


def test_a_link_to_read_is_none_to_write(api: Api) -> None:
    storage = api.live.parts.storage
    read = urlsplit(storage.url("0/results/a.png", filename="a.png", content_type="image/png"))
    assert problem(api.call("PUT", f"{read.path}?{read.query}", PNG)) == (403, "link_invalid")
    assert problem(api.call("PUT", f"{read.path}?{read.query}&size=10", PNG)) == (403, "link_invalid")

    asked = {"name": "a.png", "size": len(PNG), "content_type": "image/png"}
    write = urlsplit(api.call("POST", "/api/file/presign", asked).json()["url"])
    put = {"path": write.path, "query": write.query}
    assert api.call("GET", "{path}?{query}".format(**put)).status_code == 403
    assert api.call("PUT", "{path}?{query}&size=99999".format(**put), PNG).status_code in (204, 403)
    assert api.call("PUT", "{path}x?{query}".format(**put), PNG).status_code == 403
    assert api.call("PUT", "/files/../../etc/passwd?expires=1&size=1&signature=x", PNG).status_code in (403, 404)


def test_the_work_on_a_file_is_no_delivery(api: Api) -> None:
    sent = form(api, FILE, END).json()

    assert api.call("POST", "/webhook/listDelivery", {}).json()["list"] == []
    assert problem(api.call("POST", f"/webhook/{sent['task_id']}/redeliver")) == (404, "not_found")


def test_an_upload_is_no_task_of_its_tenant(api: Api, pool: db.Pool) -> None:
    sent: dict[str, Any] = form(api, FILE, END).json()

    for rest in ("", "/cancel", "/retry", "/result"):
        method = "POST" if rest in ("/cancel", "/retry") else "GET"
        assert api.call(method, f"/task/{sent['task_id']}{rest}").status_code == 404
    assert all_rows(pool, "SELECT state FROM asynch_task") == [{"state": 0}]


# Below the application: the bytes of HTTP itself, at the real server


def said(served: Served, *pieces: bytes, ends: bool = False) -> list[int]:
    """The statuses of all answers to these bytes, 0 for none in the end."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        for piece in pieces:
            line.sendall(piece)
        if ends:
            line.shutdown(socket.SHUT_WR)
        heard = b""
        while b"\r\n\r\n" not in heard.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"") and (more := line.recv(65536)):
            heard += more
    return [int(rest[:3]) for rest in heard.split(b"HTTP/1.1 ")[1:]]


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


def posting(*headers: str) -> bytes:
    return head("POST", "/api/file/upload", f"Content-Type: {MULTIPART}", *headers)


WHOLE = FILE + END
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(WHOLE), WHOLE)


def test_the_server_takes_forms_however_they_are_framed_and_refuses_lies(served: Served) -> None:
    size = len(WHOLE)
    assert said(served, posting(f"Content-Length: {size}"), WHOLE) == [200]
    assert said(served, posting("Transfer-Encoding: chunked"), CHUNKED) == [200]
    assert said(served, posting(f"Content-Length: {size}", "Expect: 100-continue"), WHOLE) == [100, 200]
    assert said(served, posting(f"Content-Length: {size}"), WHOLE[:-10], ends=True) in ([400], [])
    assert said(served, posting(f"Content-Length: {size - 10}"), WHOLE)[0] == 400
    assert said(served, posting(f"Content-Length: {size}", "Content-Length: 5"), WHOLE)[0] == 400
    assert said(served, posting(f"Content-Length: {size}", "Transfer-Encoding: chunked"), CHUNKED)[0] == 400
    assert said(served, posting("Content-Length: -1"), WHOLE)[0] == 400
    assert said(served, posting(f"Content-Length: {2**70}"), WHOLE)[0] == 413
    for lie in (b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"3;\r\r\nabc\r\n0\r\n\r\n"):
        assert said(served, posting("Transfer-Encoding: chunked"), lie)[0] == 400
        json = head("POST", "/task/createTask", "Content-Type: application/json", "Transfer-Encoding: chunked")
        assert said(served, json, lie)[0] == 400
        tus = [f"{name}: {value}" for name, value in PIECE.items()]
        begun = head("POST", "/api/file/tus", *tus, "Upload-Length: 9", "Transfer-Encoding: chunked")
        assert said(served, begun, lie)[0] == 400
    assert said(served, posting("Transfer-Encoding: chunked"), CHUNKED[:-7], ends=True) in ([400], [])
    assert said(served, posting(), WHOLE)[0] == 400
    assert said(served, posting("X-A: " + "a" * 100_000), WHOLE)[0] in (400, 431)
    assert said(served, head("HEAD", "/api/file/tus/1", "Tus-Resumable: 1.0.0")) == [404]
    assert served.is_up()
