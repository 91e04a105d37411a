"""Where a call to a model service may connect to, judged by the addresses that are really dialled; and TLS."""

from __future__ import annotations

import io
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from asynch.errors import ErrorCode
from asynch.executors import Call
from asynch.executors.egress import Policy
from asynch.executors.http import HttpExecutor
from tests.calls import LOOPBACK, Names, Sink, assert_cut, cut_at, failure, order, peer, read_request, run
from tests.model_server import ModelServer
from tests.waiting import until


@pytest.mark.parametrize("policy", [Policy(), Policy.parse(["127.0.0.1"], deny=["127.0.0.0/8"])])
@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost"])
def test_a_blocked_address_is_never_connected_to(model: ModelServer, policy: Policy, host: str) -> None:
    if policy.allow and host == "localhost":
        policy = Policy(allow=(host,), deny=policy.deny)
    error = failure(HttpExecutor(policy), order(f"http://{host}:{model.port}/", {}))
    assert (error.code, error.transient) == (ErrorCode.EGRESS_BLOCKED, False)
    assert model.accepted == 0


def test_one_bad_answer_blocks_a_name(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1", "10.0.0.1"]))
    error = failure(HttpExecutor(LOOPBACK), order(f"http://both.example:{model.port}/", {}))
    assert error.code is ErrorCode.EGRESS_BLOCKED
    assert model.accepted == 0


def test_a_name_is_asked_once_and_the_checked_answer_is_called(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    run(HttpExecutor(LOOPBACK), order(f"http://rebinding.example:{model.port}/", {}))
    assert names.answers == [["10.0.0.1"]]
    assert len(model.ledger.calls) == 1


def test_a_name_that_moved_is_judged_again_for_a_new_connection(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"], ["169.254.169.254"]))
    executor, wanted = HttpExecutor(LOOPBACK), order(f"http://rebinding.example:{model.port}/", {})
    run(executor, wanted)
    model.drop_connections()
    until(lambda: model.connections == 0)
    assert failure(executor, wanted).code is ErrorCode.EGRESS_BLOCKED


def test_the_next_answer_is_tried_when_the_first_is_down(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.2", "127.0.0.1"]))
    assert run(HttpExecutor(LOOPBACK), order(f"http://two.example:{model.port}/", {}))


def test_the_host_header_names_what_was_registered(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    url = f"http://model.example:{model.port}/?echo=request"
    headers = dict(json.loads(run(HttpExecutor(LOOPBACK), order(url)))["headers"])
    assert headers["Host"] == f"model.example:{model.port}"


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "model.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("model.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "model.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(secret + made.public_bytes(pem))
    return path


@contextmanager
def tls_peer(certificate: Path, answers: list[bytes], names: list[str | None]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _sock, name, _context: names.append(name)

    def serve(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as wrapped:
            for answer in answers:
                read_request(wrapped)
                wrapped.sendall(answer)
            until(lambda: not wrapped.recv(65536))

    with peer(serve) as host:
        yield host.removeprefix("127.0.0.1")


def trusting(certificate: Path) -> HttpExecutor:
    return HttpExecutor(LOOPBACK, trust=ssl.create_default_context(cafile=certificate))


def test_a_certificate_is_checked_against_the_registered_name(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    executor = trusting(certificate)
    names: list[str | None] = []
    with tls_peer(certificate, [OK], names) as port:
        assert run(executor, order(f"https://model.example{port}/")) == b"ok"
        assert names == ["model.example"]
        assert failure(executor, order(f"https://other.example{port}/")).code is ErrorCode.MODEL_CONNECTION


def test_a_certificate_that_nobody_vouches_for_is_refused(
    executor: HttpExecutor, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    with tls_peer(certificate, [], []) as port:
        error = failure(executor, order(f"https://model.example{port}/"))
    assert error.code is ErrorCode.MODEL_CONNECTION


def test_a_call_cut_inside_tls_ends_on_a_kept_connection_too(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    names: list[str | None] = []
    sink = Sink()
    with tls_peer(certificate, [OK, HALF], names) as port:

        def twice(call: Call) -> None:
            executor = trusting(certificate)
            wanted = order(f"https://model.example{port}/")
            executor.run(wanted, io.BytesIO(), Call(10))
            executor.run(wanted, sink, call)

        outcome = cut_at(twice, lambda: sink.size == 2)
    assert_cut(outcome)
    assert len(names) == 1
