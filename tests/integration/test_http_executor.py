"""What a call to a model service sends, and what it makes of the answer; against a real server."""

from __future__ import annotations

import io
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from asynch.errors import ErrorCode
from asynch.executors.http import HttpExecutor
from tests.calls import failure, order, peer, read_request, run, saying
from tests.model_bodies import pieces
from tests.model_server import ModelServer
from tests.waiting import until


def test_the_payload_reaches_the_model_as_the_bytes_that_were_sent(executor: HttpExecutor, model: ModelServer) -> None:
    payload = ' {"b":1.10, "a" : 123456789012345678901234567890,"é":"\\u0000 ü",\n"echo":true, "x":1e400}'
    assert run(executor, order(model.url, payload)) == payload.encode()


@pytest.mark.parametrize(("input_ref", "body"), [(None, "{}"), ("s3://b/k ü", '{"inputRef": "s3://b/k ü"}')])
def test_without_a_payload_the_input_ref_or_an_empty_object_is_sent(
    executor: HttpExecutor, model: ModelServer, input_ref: str | None, body: str
) -> None:
    answer = run(executor, order(f"{model.url}/?echo=true", input_ref=input_ref))
    assert json.loads(answer) == json.loads(body)


def test_get_sends_the_object_as_a_query_beside_the_existing_one(executor: HttpExecutor, model: ModelServer) -> None:
    payload = (
        '{ "s" : "a b&c=ü", "n":123456789012345678901234567890 , "f":1.10,"e":1E400,"t":true,"z":null,'
        '"l":[1, "x"],"o":{"k": 1.0},"empty":"","q":"\\"1\\"" }'
    )
    wanted = order(f"{model.url}/p?echo=request&x=1", payload, method="GET")
    seen = json.loads(run(executor, wanted))
    assert seen["method"] == "GET"
    assert seen["target"] == (
        "/p?echo=request&x=1&s=a+b%26c%3D%C3%BC&n=123456789012345678901234567890&f=1.10&e=1E400&t=true&z=null"
        "&l=%5B1%2C+%22x%22%5D&o=%7B%22k%22%3A+1.0%7D&empty=&q=%221%22"
    )


@pytest.mark.parametrize("payload", ["{}", " { } "])
def test_get_with_an_empty_object_leaves_the_url_as_it_is(
    executor: HttpExecutor, model: ModelServer, payload: str
) -> None:
    seen = json.loads(run(executor, order(f"{model.url}/p?echo=request", payload, method="GET")))
    assert seen["target"] == "/p?echo=request"


@pytest.mark.parametrize("payload", ["[1]", '"s"', "{", '{"a":1}x', '{"a":"\ud800"'])
def test_get_with_anything_but_an_object_fails_for_good(
    executor: HttpExecutor, model: ModelServer, payload: str
) -> None:
    assert not failure(executor, order(model.url, payload, method="GET")).transient
    assert model.ledger.calls == []


def test_asynchs_own_headers_win_over_bound_ones(executor: HttpExecutor, model: ModelServer) -> None:
    bound = {
        "authorization": "Bearer é",
        "x-asynch-task-id": "forged",
        "idempotency-key": "forged",
        "accept-encoding": "gzip",
        "user-agent": "mine",
    }
    seen = json.loads(run(executor, order(f"{model.url}/?echo=request", headers=bound, attempt=3)))
    headers = [(name.lower(), value) for name, value in seen["headers"]]
    assert dict(headers).items() >= {
        ("authorization", "Bearer é"),
        ("x-asynch-task-id", "task-1"),
        ("x-asynch-attempt", "3"),
        ("idempotency-key", "task-1"),
        ("accept-encoding", "identity"),
        ("user-agent", "mine"),
        ("content-type", "application/json"),
    }
    assert len(headers) == len(dict(headers))


def test_proxies_and_netrc_of_the_environment_are_ignored(
    executor: HttpExecutor, model: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login u password p\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    seen = json.loads(run(executor, order(f"{model.url}/?echo=request")))
    assert "authorization" not in {name.lower() for name, _ in seen["headers"]}


def test_a_cookie_of_one_call_is_not_kept_for_the_next(executor: HttpExecutor, model: ModelServer) -> None:
    run(executor, order(model.url, {"headers": {"Set-Cookie": "session=tenant-1; Path=/"}}))
    assert b"tenant-1" not in run(executor, order(f"{model.url}/?echo=request"))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_the_result_is_the_body_byte_for_byte(
    executor: HttpExecutor, model: ModelServer, size: int, chunked: bool
) -> None:
    payload = {"kind": "wav", "size": size, "chunked": chunked}
    wav = run(executor, order(model.url, {"kind": "wav"}))
    assert run(executor, order(model.url, payload)) == b"".join(pieces(wav, size))


@pytest.mark.parametrize("status", [201, 202, 204, 299])
def test_every_2xx_is_a_result(executor: HttpExecutor, model: ModelServer, status: int) -> None:
    assert run(executor, order(model.url, {"status": status, "size": 0})) == b""


def test_a_coded_body_is_kept_as_it_came(executor: HttpExecutor, model: ModelServer) -> None:
    payload = '{"echo": true, "headers": {"Content-Encoding": "gzip"}}'
    assert run(executor, order(model.url, payload)) == payload.encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
        b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.0 200 OK\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nX-Name: J\xf6rg\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;ext=1\r\nbo\r\n2  \r\ndy\r\n0\r\nX-Sum: 9\r\n\r\n",
    ],
    ids=("hints", "continue", "bare-lf", "no-reason", "1.0", "offers-upgrade", "latin-1", "chunked"),
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_what_plain_servers_send_is_understood_however_it_is_cut(
    executor: HttpExecutor, answer: bytes, piece: int
) -> None:
    def serve(client: socket.socket) -> None:
        read_request(client)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(answer), piece):
            client.sendall(answer[at : at + piece])
        client.shutdown(socket.SHUT_RDWR)

    with peer(serve) as host:
        assert run(executor, order(f"http://{host}/")) == b"body"


@pytest.mark.parametrize(
    "headers", [{"X-A": "1\r\nX-B: 2"}, {"X-A\r\nX-B": "2"}, {"X A": "1"}, {"": "1"}, {"X-A": "\u20ac"}]
)
def test_a_header_that_would_bend_the_request_is_never_sent(
    executor: HttpExecutor, model: ModelServer, headers: dict[str, str]
) -> None:
    error = failure(executor, order(model.url, {}, headers=headers))
    assert (error.code, error.transient) == (ErrorCode.INTERNAL, False)
    assert not model.ledger.calls


def test_a_body_that_ends_with_its_connection_is_a_result(executor: HttpExecutor) -> None:
    with peer(saying(b"HTTP/1.1 200 OK\r\n\r\nall of it")) as host:
        assert run(executor, order(f"http://{host}/")) == b"all of it"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_result_of_exactly_the_limit_passes(executor: HttpExecutor, model: ModelServer, chunked: bool) -> None:
    wanted = order(model.url, {"size": 100_000, "chunked": chunked}, max_bytes=100_000)
    assert len(run(executor, wanted)) == 100_000


@pytest.mark.parametrize("size", [1_000_001, 50_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_result_over_the_limit_is_refused(
    executor: HttpExecutor, model: ModelServer, chunked: bool, size: int
) -> None:
    out = io.BytesIO()
    wanted = order(model.url, {"size": size, "chunked": chunked}, max_bytes=1_000_000)
    error = failure(executor, wanted, out)
    assert (error.code, error.transient) == (ErrorCode.RESULT_TOO_LARGE, False)
    assert out.tell() <= 1_000_000


@pytest.mark.parametrize("chunked", [False, True])
def test_a_result_far_over_the_limit_is_not_read_on(executor: HttpExecutor, model: ModelServer, chunked: bool) -> None:
    failure(executor, order(model.url, {"size": 50_000_000, "chunked": chunked}, max_bytes=1_000_000))
    until(lambda: model.connections == 0)


def test_a_length_over_the_limit_is_refused_before_the_first_byte(executor: HttpExecutor, model: ModelServer) -> None:
    out = io.BytesIO()
    failure(executor, order(model.url, {"size": 50_000_000}, max_bytes=1_000_000), out)
    assert out.tell() == 0


@pytest.mark.parametrize(
    ("status", "transient"),
    [
        *((302, False), (304, False), (400, False), (404, False), (408, True), (409, False), (425, True)),
        *((429, True), (499, False), (500, True), (503, True), (599, True)),
    ],
)
def test_any_other_status_fails_and_says_whether_it_may_pass(
    executor: HttpExecutor, model: ModelServer, status: int, transient: bool
) -> None:
    error = failure(executor, order(model.url, {"status": status}))
    assert (error.code, error.http_status) == (ErrorCode.MODEL_HTTP_ERROR, status)
    assert error.transient is transient


def test_a_failed_answer_is_told_with_the_first_kibibyte(executor: HttpExecutor, model: ModelServer) -> None:
    payload = {"status": 500, "echo": True, "text": "x" * 5000}
    error = failure(executor, order(model.url, payload))
    assert error.detail == f"HTTP 500: {json.dumps(payload)[:1024]}"


@pytest.mark.parametrize("body", [b"\0\xff\xfe\xed\xa0\x80\xf0\x9f", b"\xc3" * 2000])
def test_a_failed_answer_is_told_in_text_that_postgres_takes(executor: HttpExecutor, body: bytes) -> None:
    with peer(saying(b"HTTP/1.1 500 Oops\r\n\r\n" + body)) as host:
        detail = failure(executor, order(f"http://{host}/")).detail
    assert "\0" not in detail
    assert detail.encode().decode() == detail


def test_a_broken_error_page_is_still_the_models_error(executor: HttpExecutor, model: ModelServer) -> None:
    error = failure(executor, order(model.url, {"status": 503, "cut_after": 5}))
    assert (error.code, error.http_status) == (ErrorCode.MODEL_HTTP_ERROR, 503)


def test_a_redirect_is_neither_followed_nor_read(executor: HttpExecutor, model: ModelServer) -> None:
    wanted = order(model.url, {"redirect": f"{model.url}/elsewhere", "size": 50_000_000})
    assert failure(executor, wanted).http_status == 302
    until(lambda: model.ledger.open == 0)
    assert [(call.path, call.outcome) for call in model.ledger.calls] == [("/", "gone")]


def http_date(seconds_from_now: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds_from_now), usegmt=True)


@pytest.mark.parametrize(
    ("status", "wish", "least", "most"),
    [
        (429, "7", 7, 7),
        (503, " 0 ", 0, 0),
        (429, "99999", 3600, 3600),
        (429, "9" * 400, 3600, 3600),
    ],
)
def test_retry_after_is_honoured_for_an_hour_at_most(
    executor: HttpExecutor, model: ModelServer, status: int, wish: str, least: float, most: float
) -> None:
    error = failure(executor, order(model.url, {"status": status, "retry_after": wish}))
    assert error.retry_after_s is not None
    assert least <= error.retry_after_s <= most


@pytest.mark.parametrize(("ahead", "least", "most"), [(600, 500, 601), (-60, 0, 0), (1e6, 3600, 3600)])
def test_retry_after_may_be_a_date(
    executor: HttpExecutor, model: ModelServer, ahead: float, least: float, most: float
) -> None:
    error = failure(executor, order(model.url, {"status": 503, "retry_after": http_date(ahead)}))
    assert error.retry_after_s is not None
    assert least <= error.retry_after_s <= most


@pytest.mark.parametrize(("status", "wish"), [(500, "7"), (429, "soon"), (429, "-1"), (429, "1.5"), (503, "")])
def test_retry_after_elsewhere_or_unreadable_is_no_wish(
    executor: HttpExecutor, model: ModelServer, status: int, wish: str
) -> None:
    error = failure(executor, order(model.url, {"status": status, "retry_after": wish}))
    assert error.retry_after_s is None


def test_a_retry_date_counts_from_the_models_own_clock(executor: HttpExecutor) -> None:
    answer = (
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\n"
        b"Retry-After: Mon, 01 Jan 2001 00:01:00 GMT\r\n\r\n"
    )
    with peer(saying(answer)) as host:
        assert failure(executor, order(f"http://{host}/")).retry_after_s == 60.0
