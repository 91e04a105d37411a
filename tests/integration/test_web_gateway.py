"""Mode gateway: a trusted proxy that knows the secret says who calls, and nobody else does."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from asynch import settings
from asynch.errors import SettingsError
from asynch.web.peers import client_of, within
from tests.live import Live, MakeParts, serving

SECRET = "gateway-word-ü"
SENT = SECRET.encode()


def mode(*proxies: str) -> dict[str, Any]:
    return {
        "auth": {"mode": "gateway", "gateway": {"secret": SECRET}},
        "server": {"trusted_proxies": list(proxies)},
    }


@pytest.fixture
def live(make_parts: MakeParts) -> Iterator[Live]:
    with serving(make_parts(**mode("127.0.0.0/8"))) as running:
        yield running


def listing(live: Live, info: Any, body: Any = None, **headers: Any) -> requests.Response:
    said = {} if info is None else {"X-User-Info": info if isinstance(info, str) else json.dumps(info)}
    return live.call("POST", "/model/listModel", body or {}, headers=said | headers)


def through(live: Live, info: Any, body: Any = None) -> requests.Response:
    return listing(live, info, body, **{"X-Gateway-Secret": SENT})


def test_the_gateways_word_is_believed(live: Live) -> None:
    info = {"tenantId": "7", "userName": "eva"}
    model = {"modelName": "m", "baseUrl": "http://127.0.0.1:9"}
    headers = {"X-User-Info": base64.b64encode(json.dumps(info).encode()), "X-Gateway-Secret": SENT}
    assert live.call("POST", "/model/createModel", model, headers=headers).status_code == 200

    (listed,) = through(live, info).json()["list"]
    assert (listed["tenantId"], listed["creator"]) == ("7", "eva")


def test_a_missing_role_is_user_and_admin_must_be_said(live: Live) -> None:
    assert through(live, {"tenantId": 7}, {"tenantId": 8}).status_code == 403
    assert through(live, {"tenantId": 7, "role": None}, {"tenantId": 8}).status_code == 403
    assert through(live, {"tenantId": 7, "role": "user"}, {"tenantId": 8}).status_code == 403
    assert through(live, {"tenantId": 7, "role": "admin"}, {"tenantId": 8}).status_code == 200


@pytest.mark.parametrize("headers", [
    {}, {"X-Gateway-Secret": ""}, {"X-Gateway-Secret": "gateway-word"}, {"X-Gateway-Secret": SENT + b"x"},
    {"X-Gateway-Secret": SENT + b", " + SENT}, {"Authorization": f"Bearer {SECRET}".encode()},
])  # fmt: skip
def test_without_the_secret_nobody_is_believed(live: Live, headers: dict[str, Any]) -> None:
    answer = listing(live, {"tenantId": 7}, **headers)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert "word" not in answer.text


@pytest.mark.parametrize(
    "info", [None, "", "{", '{"userName":"x"}', '{"tenantId":1.5}', '{"tenantId":1,"role":"root"}']
)
def test_a_gateway_that_says_nothing_readable_is_401(live: Live, info: str | None) -> None:
    assert through(live, info).status_code == 401


def test_only_the_peer_itself_counts_not_what_it_says_of_others(make_parts: MakeParts) -> None:
    with serving(make_parts(**mode("192.0.2.0/24"))) as elsewhere:
        for name in ("X-Forwarded-For", "X-Real-Ip", "Forwarded"):
            headers = {"X-Gateway-Secret": SENT, name: "192.0.2.1"}
            assert listing(elsewhere, {"tenantId": 7, "role": "admin"}, **headers).status_code == 401


def test_many_wrong_secrets_are_429(live: Live) -> None:
    statuses = {listing(live, {"tenantId": 7}, **{"X-Gateway-Secret": f"guess{n}"}).status_code for n in range(60)}

    assert statuses == {401, 429}
    assert through(live, {"tenantId": 7}).status_code == 200


def test_probes_are_open(live: Live) -> None:
    assert live.call("GET", "/healthz").status_code == 200


@pytest.mark.parametrize(("secret", "proxies", "named"), [
    ("", ["10.0.0.1"], "auth.gateway.secret"), ("s", [], "server.trusted_proxies"),
])  # fmt: skip
def test_it_does_not_start_half_configured(secret: str, proxies: list[str], named: str) -> None:
    with pytest.raises(SettingsError, match=f"{named} is empty"):
        settings.build({
            "auth": {"mode": "gateway", "gateway": {"secret": secret}}, "server": {"trusted_proxies": proxies},
        })  # fmt: skip


@pytest.mark.parametrize(("address", "networks", "inside"), [
    ("10.1.2.3", ["10.0.0.0/8"], True), ("::ffff:10.1.2.3", ["10.0.0.0/8"], True), ("10.1.2.3", ["10.1.2.4"], False),
    ("fd00::1", ["fd00::/8"], True), ("", ["0.0.0.0/0"], False), ("unix:", ["0.0.0.0/0"], False),
])  # fmt: skip
def test_a_peer_is_in_a_network(address: str, networks: list[str], inside: bool) -> None:
    assert within(address, networks) is inside


@pytest.mark.parametrize(("forwarded", "client"), [
    ("", "10.0.0.1"), ("203.0.113.9", "203.0.113.9"), ("1.1.1.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
    ("nonsense", "10.0.0.1"), ("203.0.113.9, nonsense, 10.0.0.2", "10.0.0.2"),
])  # fmt: skip
def test_the_client_is_the_nearest_address_that_is_no_proxy(forwarded: str, client: str) -> None:
    assert client_of("10.0.0.1", forwarded, ["10.0.0.0/8"]) == client
    assert client_of("192.0.2.1", forwarded, ["10.0.0.0/8"]) == "192.0.2.1"
