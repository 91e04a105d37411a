"""Mode jwt: tokens of an issuer are believed for what its keys prove, whatever a token says of itself."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from asynch.errors import ErrorCode, ExecutorError, IssuerDown, UserError
from asynch.executors.fetch import fetch
from asynch.service import issuer
from asynch.service.issuer import KeySet
from asynch.service.tokens import TokenRefused, Verifier, keys_of, read_key_set, static_key
from tests.calls import peer, read_request
from tests.live import Live, MakeParts, serving
from tests.waiting import until

RSA_KEY, OTHER_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
SHARED = "a shared secret of 32 bytes or more"
ISSUER, AUDIENCE = "https://login.example.com", "asynch"


def pem(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    text: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return text.decode()


def token(key: Any = RSA_KEY, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token that is good unless something is said; a claim of None is left out."""
    now = int(time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 300, "iat": now, "tenantId": 7, "sub": "eva"}
    told = {name: value for name, value in (good | claims).items() if value is not None}
    return jwt.encode(told, key, algorithm, headers={"kid": "one"} if headers is None else headers)


def verifier(key: str, **terms: Any) -> Verifier:
    return Verifier(keys_of("", key), **{"issuer": ISSUER, "audience": AUDIENCE, "tenant_claim": "tenantId", **terms})


BY_PEM = verifier(pem(RSA_KEY))


class Issuer:
    """A server of keys that counts who asks, and can be down or say nonsense."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [published(RSA_KEY, "one")]
        self.body: bytes | None = None
        self.status = 200
        self.asked = 0
        self.pause = threading.Event()
        self.pause.set()
        self.url = ""


def published(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    kind = next((known for cls, known in kinds.items() if isinstance(key, cls)), OKPAlgorithm)
    entry: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
    return entry | ({"kid": kid} if kid else {}) | more


@contextmanager
def issuing() -> Iterator[Issuer]:
    place = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place.asked += 1
            place.pause.wait(20)
            body = json.dumps({"keys": place.keys}).encode() if place.body is None else place.body
            self.send_response(place.status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/other")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    place.url = f"http://127.0.0.1:{server.server_port}/jwks"
    yield place
    place.pause.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def place() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


def live_with(make_parts: MakeParts, **more: Any) -> Any:
    terms = {"issuer": ISSUER, "audience": AUDIENCE, **more}
    return serving(make_parts(auth={"mode": "jwt", "jwt": terms}))


def listing(live: Live, given: str, body: Any = None) -> requests.Response:
    return live.call("POST", "/model/listModel", body or {}, headers={"Authorization": f"Bearer {given}"})


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


# Over HTTP


def test_a_token_acts_for_its_tenant_and_user(make_parts: MakeParts, place: Issuer) -> None:
    with live_with(make_parts, jwks_url=place.url) as live:
        headers = {"Authorization": f"Bearer {token()}", "X-User-Info": '{"tenantId":1,"role":"admin"}'}
        model = {"modelName": "m", "baseUrl": "http://127.0.0.1:9"}
        assert live.call("POST", "/model/createModel", model, headers=headers).status_code == 200
        (listed,) = listing(live, token()).json()["list"]

        assert (listed["tenantId"], listed["creator"]) == ("7", "eva")
        assert listing(live, token(), {"tenantId": 8}).status_code == 403
        assert listing(live, token(role="admin"), {"tenantId": 8}).status_code == 200


def test_bad_tokens_are_401_then_429_and_a_good_one_goes_on(make_parts: MakeParts, place: Issuer) -> None:
    with live_with(make_parts, jwks_url=place.url) as live:
        bad = token(OTHER_KEY)
        answers = [listing(live, bad) for _ in range(40)]

        assert {answer.status_code for answer in answers} == {401, 429}
        assert answers[0].headers["WWW-Authenticate"].startswith("Bearer")
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert listing(live, token()).status_code == 200
        assert live.call("POST", "/model/listModel", {}).status_code == 401


def test_before_the_issuer_ever_answered_it_is_503(make_parts: MakeParts, place: Issuer) -> None:
    place.status = 500
    with live_with(make_parts, jwks_url=place.url) as live:
        answer = listing(live, token())

        assert (answer.status_code, answer.json()["code"]) == (503, "issuer_down")
        assert "127.0.0.1" not in answer.json()["detail"]


# What a token must say


@pytest.mark.parametrize("wrong", [
    {"iss": None}, {"iss": "https://login.example.com.evil"}, {"aud": None}, {"aud": "other"},
    {"aud": "asynchron"}, {"exp": None}, {"exp": 1}, {"exp": int(time()) - 60}, {"exp": "x"}, {"exp": float("inf")},
    {"nbf": int(time()) + 86_400}, {"iat": int(time()) + 86_400}, {"tenantId": None}, {"tenantId": True}, {"tenantId": 1.0},
    {"tenantId": "7x"}, {"tenantId": ""}, {"tenantId": 2**63}, {"tenantId": [7]}, {"sub": "a\0b"}, {"sub": "x" * 129},
])  # fmt: skip
def test_a_token_that_says_the_wrong_thing_is_refused(wrong: dict[str, Any]) -> None:
    assert BY_PEM.principal_of(token()).tenant_id == 7
    with pytest.raises(TokenRefused):
        BY_PEM.principal_of(token(**wrong))


@pytest.mark.parametrize("tenant", [0, 2**63 - 1, "42"])
def test_a_tenant_is_any_64_bit_number_that_is_not_negative(tenant: Any) -> None:
    assert BY_PEM.principal_of(token(tenantId=tenant)).tenant_id == int(tenant)


def test_the_tenants_claim_has_any_name() -> None:
    named = verifier(pem(RSA_KEY), tenant_claim="https://example.com/tenant")

    assert named.principal_of(token(**{"tenantId": 1, "https://example.com/tenant": 2})).tenant_id == 2


def test_a_clock_that_is_a_little_off_is_forgiven() -> None:
    now = int(time())

    assert BY_PEM.principal_of(token(exp=now - 10, nbf=now + 10, iat=now + 10)).tenant_id == 7


@pytest.mark.parametrize(("claims", "user"), [
    ({}, "eva"), ({"sub": None, "name": "Zoë"}, "Zoë"), ({"sub": None}, ""), ({"name": "Zoë"}, "eva"),
])  # fmt: skip
def test_the_user_is_the_subject_else_the_name(claims: dict[str, Any], user: str) -> None:
    assert BY_PEM.principal_of(token(**claims)).user == user


@pytest.mark.parametrize(("role", "admin"), [
    ("admin", True), (["user", "admin"], True), (None, False), ("user", False), ("administrator", False),
    ("Admin", False), ({"admin": 1}, False), (["xadmin"], False), (True, False),
])  # fmt: skip
def test_the_role_is_user_unless_it_says_admin(role: Any, admin: bool) -> None:
    assert BY_PEM.principal_of(token(role=role)).is_admin is admin


# Whose signature counts


def unsigned(header: dict[str, Any]) -> str:
    claims = jwt.decode(token(), options={"verify_signature": False})
    return f"{encoded(header)}.{encoded(claims)}."


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "nOnE", None])
def test_an_unsigned_token_is_refused(alg: Any) -> None:
    with pytest.raises(TokenRefused):
        BY_PEM.principal_of(unsigned({"alg": alg, "typ": "JWT"}))


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_shared_secret(alg: str) -> None:
    import hashlib
    import hmac

    claims = jwt.decode(token(), options={"verify_signature": False})
    head = f"{encoded({'alg': alg, 'typ': 'JWT', 'kid': 'one'})}.{encoded(claims)}"
    for secret in (pem(RSA_KEY), pem(RSA_KEY).strip()):
        digest = hmac.new(secret.encode(), head.encode(), getattr(hashlib, f"sha{alg[2:]}")).digest()
        forged = f"{head}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
        with pytest.raises(TokenRefused):
            BY_PEM.principal_of(forged)


def test_a_shared_secret_takes_no_other_algorithm() -> None:
    shared = verifier(SHARED)

    assert shared.principal_of(token(SHARED, "HS256")).tenant_id == 7
    for forged in (token(RSA_KEY), token(EC_KEY, "ES256"), token(SHARED + "x", "HS256")):
        with pytest.raises(TokenRefused):
            shared.principal_of(forged)


@pytest.mark.parametrize(("key", "alg"), [(RSA_KEY, "RS512"), (RSA_KEY, "PS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")])
def test_each_kind_of_key_proves_its_own_algorithms(key: Any, alg: str) -> None:
    assert verifier(pem(key)).principal_of(token(key, alg)).tenant_id == 7


def test_a_token_cannot_bring_its_own_key(place: Issuer) -> None:
    own = published(OTHER_KEY, "evil")
    before = place.asked
    for headers in (
        {"kid": "one", "jku": place.url, "x5u": place.url}, {"kid": "one", "jwk": own}, {"kid": place.url},
        {"kid": "../../../../dev/null"}, {"kid": "one' OR '1'='1"}, {"kid": "one", "x5c": ["AAAA"]},
    ):  # fmt: skip
        with pytest.raises(TokenRefused):
            BY_PEM.principal_of(token(OTHER_KEY, headers=headers))

    assert place.asked == before


def test_what_is_critical_and_not_understood_is_refused() -> None:
    with pytest.raises(TokenRefused):
        BY_PEM.principal_of(token(headers={"kid": "one", "crit": ["x"], "x": 1}))


@pytest.mark.parametrize("made", [
    lambda good: "", lambda good: "x", lambda good: "a.b.c", lambda good: "..", lambda good: "ak_0_x",
    lambda good: "é.é.é", lambda good: good + "x", lambda good: good[:-1], lambda good: good.replace(".", ".."),
    lambda good: good.rpartition(".")[0] + ".", lambda good: good.rpartition(".")[0],
])  # fmt: skip
def test_what_is_no_token_is_refused(made: Callable[[str], str]) -> None:
    with pytest.raises(TokenRefused):
        BY_PEM.principal_of(made(token()))


def test_a_header_nested_beyond_any_parser_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b'{"a":' + b"[" * 100_000).rstrip(b"=").decode()
    with pytest.raises(TokenRefused):
        BY_PEM.principal_of(f"{deep}.e30.AA")


def private_pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    text: bytes = key.private_bytes(*form)
    return text.decode()


@pytest.mark.parametrize("made", [
    lambda: "short", lambda: "x" * 31, lambda: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    lambda: pem(rsa.generate_private_key(65537, 1024)), lambda: pem(ec.generate_private_key(ec.SECP256K1())),
    lambda: private_pem(ED_KEY), lambda: private_pem(RSA_KEY),
])  # fmt: skip
def test_a_static_key_that_is_weak_or_none_stops_the_start(made: Callable[[], str]) -> None:
    text = made()
    with pytest.raises(UserError, match=r"auth\.jwt\.key") as caught:
        static_key(text)
    assert text not in str(caught.value)


# The published keys


def test_published_keys_are_taken_for_what_they_are() -> None:
    private = json.loads(RSAAlgorithm.to_jwk(OTHER_KEY))
    entries = [
        published(RSA_KEY, "one"), published(EC_KEY, "ec", alg="ES256"), published(OTHER_KEY, "pinned", alg="RS512"),
        published(OTHER_KEY, "sealing", use="enc"), published(OTHER_KEY, "mismatch", alg="HS256"),
        {"kty": "oct", "kid": "shared", "k": encoded(SHARED)}, private | {"kid": "private"},
        {"kty": "RSA", "kid": "broken", "n": "AQ", "e": 1}, "no object", published(EC_KEY, "one"),
    ]  # fmt: skip
    found = read_key_set(json.dumps({"keys": entries}).encode())

    assert {kid: key.algorithms for kid, key in found.items()} == {
        "one": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "ec": ("ES256",), "pinned": ("RS512",),
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys":1}', b'{"keys":[]}', b"\xff", b"[" * 100_000])
def test_a_document_without_keys_is_no_set(body: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        read_key_set(body)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_new_key_is_found_soon_and_invented_ones_cost_no_fetch(place: Issuer) -> None:
    clock = Clock()
    keys = KeySet(place.url, read_key_set, clock=clock)
    assert keys.find("one") is not None
    place.keys.append(published(OTHER_KEY, "two"))

    for n in range(100):
        assert keys.find(f"invented-{n}") is None
    assert place.asked == 1
    clock.now += issuer.LOOK_AGAIN_S
    assert keys.find("two") is not None
    for n in range(100):
        assert keys.find(f"invented-{n}") is None
    assert place.asked == 2


def test_many_requests_at_once_are_one_fetch(place: Issuer) -> None:
    keys = KeySet(place.url, read_key_set)
    place.pause.clear()
    found: list[object] = []

    def ask() -> None:
        try:
            found.append(keys.find("one"))
        except IssuerDown:
            found.append(IssuerDown)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    until(lambda: len(found) >= 8)  # no more than a few of them wait
    place.pause.set()
    for thread in threads:
        thread.join()

    assert place.asked == 1
    assert 1 <= sum(each is not IssuerDown for each in found) <= 4
    assert keys.find("one") is not None


@pytest.mark.parametrize("trouble", ["status", "nonsense", "redirect", "too large", "gone"])
def test_the_old_keys_serve_while_the_issuer_does_not(place: Issuer, trouble: str) -> None:
    clock = Clock()
    keys = KeySet(place.url, read_key_set, clock=clock)
    assert keys.find("one") is not None
    match trouble:
        case "status":
            place.status = 500
        case "redirect":
            place.status = 302
        case "nonsense":
            place.body = b"<html>"
        case "too large":
            place.body = b" " * (2 << 20)
        case _:
            keys._url = "http://127.0.0.1:1/jwks"
    asked = place.asked

    for _ in range(3):
        clock.now += issuer.FRESH_S
        assert keys.find("one") is not None
        until(keys._idle.is_set)
    assert keys.find("two") is None
    assert trouble == "gone" or place.asked == asked + 3


def test_an_issuer_that_hangs_lets_no_known_key_wait(place: Issuer) -> None:
    clock = Clock()
    keys = KeySet(place.url, read_key_set, clock=clock)
    assert keys.find("one") is not None
    place.pause.clear()
    clock.now += issuer.FRESH_S
    began = time()

    assert keys.find("one") is not None
    assert time() - began < 1


def test_a_key_that_the_issuer_withdrew_stops(place: Issuer) -> None:
    clock = Clock()
    keys = KeySet(place.url, read_key_set, clock=clock)
    assert keys.find("one") is not None
    place.keys = [published(OTHER_KEY, "two")]
    clock.now += issuer.FRESH_S
    keys.find("one")
    until(keys._idle.is_set)

    assert keys.find("one") is None
    assert keys.find("two") is not None


def test_a_token_without_a_key_id_is_of_the_only_key(place: Issuer) -> None:
    keys = KeySet(place.url, read_key_set)
    assert keys.find(None) is not None

    place.keys.append(published(OTHER_KEY, "two"))
    assert KeySet(place.url, read_key_set).find(None) is None


# How the document is had


def dripping(client: socket.socket) -> None:
    read_request(client)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        client.sendall(b" ")
        threading.Event().wait(0.02)


def test_an_issuer_that_drips_is_given_up_in_time() -> None:
    with peer(dripping) as where:
        began = time()
        with pytest.raises(ExecutorError):
            fetch(f"http://{where}/", timeout_s=0.3, max_bytes=1 << 20)

    assert time() - began < 5


def test_a_metadata_service_is_no_issuer() -> None:
    with pytest.raises(ExecutorError) as caught:
        fetch("http://169.254.169.254/jwks", timeout_s=2, max_bytes=100)
    assert caught.value.code is ErrorCode.EGRESS_BLOCKED
