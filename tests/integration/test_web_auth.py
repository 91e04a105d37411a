from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
import requests

from asynch import db
from asynch.errors import TooOften, UserError
from asynch.service import keys
from asynch.service.guesses import MOST, Guesses
from asynch.service.keys import KeyRing
from tests.database import all_rows
from tests.live import Live, MakeParts, serving

APP = "https://app.example.com"


@pytest.fixture
def keyed(make_parts: MakeParts) -> Iterator[Live]:
    """The application with auth mode apikey."""
    with serving(make_parts(auth={"mode": "apikey"})) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def tenant_of(live: Live, **headers: str) -> str:
    """The tenant a request acts for, as the model it makes says."""
    body = {"modelName": "who", "baseUrl": "http://127.0.0.1:9"}
    assert live.call("POST", "/model/createModel", body, headers=headers).status_code == 200
    tenant: str = live.call("GET", "/model/getModel?modelName=who", headers=headers).json()["tenantId"]
    return tenant


def listing(live: Live, body: object | None = None, **headers: str) -> requests.Response:
    return live.call("POST", "/model/listModel", body or {}, headers=headers)


# Mode none: who is believed, and which requests are not served


def test_without_user_info_the_tenant_is_0(live: Live) -> None:
    assert tenant_of(live) == "0"


@pytest.mark.parametrize("tenant", [7, "7"])
def test_user_info_is_believed_as_json(live: Live, tenant: object) -> None:
    assert tenant_of(live, **{"X-User-Info": json.dumps({"tenantId": tenant, "userName": "eva"})}) == "7"


def test_user_info_is_believed_as_base64_with_any_name(live: Live, pool: db.Pool) -> None:
    info = base64.b64encode(json.dumps({"tenantId": 8, "userName": "Zoë 李"}).encode()).decode()

    assert tenant_of(live, **{"X-User-Info": info}) == "8"
    assert [r["creator"] for r in all_rows(pool, "SELECT creator FROM asynch_models")] == ["Zoë 李"]


@pytest.mark.parametrize(
    "info",
    ["", "{", "tenant 7", '{"userName":"x"}',
     '{"tenantId":1.5}', '{"tenantId":true}', '{"tenantId":9223372036854775808}',
     '{"tenantId":1,"role":"root"}', '{"tenantId":1,"userName":"a\\u0000"}', "[" * 10_000],
)  # fmt: skip
def test_user_info_that_cannot_be_read_is_401_and_never_tenant_0(live: Live, info: str) -> None:
    assert listing(live, **{"X-User-Info": info}).status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "", "a@127.0.0.1"]
)
def test_a_host_that_is_not_loopback_is_refused(live: Live, host: str) -> None:
    answer = listing(live, Host=host)

    assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "[::1]:8080", "127.1.2.3"])
def test_a_loopback_host_is_served(live: Live, host: str) -> None:
    assert listing(live, Host=host).status_code == 200


@pytest.mark.parametrize("origin", [APP, "null", "http://127.0.0.1:1", "http://localhost", "", "http://["])
def test_a_foreign_origin_is_refused(live: Live, origin: str) -> None:
    answer = listing(live, Origin=origin)

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")


def test_the_own_origin_is_served(live: Live) -> None:
    assert listing(live, Origin=live.url).status_code == 200


def test_an_image_of_another_site_reaches_nothing(live: Live) -> None:
    answer = live.call("GET", "/model/getModel?modelName=m", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"])
@pytest.mark.parametrize("path", ["/model/createModel", "/task/cancelBatch", "/task/1/cancel", "/task/1/retry"])
def test_what_a_form_can_send_changes_nothing(live: Live, path: str, kind: str) -> None:
    answer = live.call("POST", path, headers={"Content-Type": kind}, data=b'{"taskIds":["1"],"a":"=b"}')

    assert answer.status_code == 415


@pytest.mark.parametrize("referer", ["https://evil.example/page", "http://127.0.0.1.evil.example/", "http://["])
def test_an_old_browser_that_only_says_which_page_led_here_is_refused(live: Live, referer: str) -> None:
    answer = live.call("GET", "/task/getTaskResult?taskId=1", headers={"Referer": referer})

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
    assert live.call("GET", "/task/getTaskResult?taskId=1", headers={"Referer": live.url + "/docs"}).status_code == 404


def test_probes_answer_under_any_host(live: Live) -> None:
    assert live.call("GET", "/healthz", headers={"Host": "probe.example"}).status_code == 200


# CORS


def test_a_configured_origin_may_call(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"cors_origins": [APP]})) as live:
        answer = listing(live, Origin=APP)

    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert "Origin" in answer.headers["Vary"]


def test_a_preflight_needs_no_key(make_parts: MakeParts) -> None:
    asks = {"Origin": APP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving(make_parts(server={"cors_origins": [APP]}, auth={"mode": "apikey"})) as live:
        answer = live.call("OPTIONS", "/model/listModel", headers=asks)

    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


def test_an_origin_not_configured_gets_no_permission(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"cors_origins": [APP]}, auth={"mode": "apikey"})) as live:
        answer = listing(live, Origin="https://evil.example")

    assert "Access-Control-Allow-Origin" not in answer.headers


# Mode apikey


def test_a_key_acts_for_its_tenant(keyed: Live, pool: db.Pool) -> None:
    _, token = keys.create_key(pool, 42, "ci")

    assert tenant_of(keyed, **bearer(token)) == "42"


def test_user_info_is_not_believed_beside_a_key(keyed: Live, pool: db.Pool) -> None:
    _, token = keys.create_key(pool, 42, "ci")

    assert tenant_of(keyed, **bearer(token), **{"X-User-Info": '{"tenantId":1}'}) == "42"


@pytest.mark.parametrize("made", [
    lambda key_id, token: {},
    lambda key_id, token: {"Authorization": token},
    lambda key_id, token: {"Authorization": f"Basic {token}"},
    lambda key_id, token: {"Authorization": f"Bearer {token}x"},
    lambda key_id, token: {"Authorization": f"Bearer {token[:-1]}"},
    lambda key_id, token: {"Authorization": f"Bearer ak_{key_id}_"},
    lambda key_id, token: {"Authorization": f"Bearer ak_0000000000000000_{token[20:]}"},
    lambda key_id, token: {"X-User-Info": '{"tenantId":42}'},
])  # fmt: skip
def test_anything_but_the_whole_key_is_401(keyed: Live, pool: db.Pool, made: object) -> None:
    key_id, token = keys.create_key(pool, 42, "ci")

    answer = listing(keyed, **made(key_id, token))  # type: ignore[operator]

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert token[20:] not in answer.text


def test_a_wrong_secret_is_refused_also_when_the_right_one_was_just_believed(keyed: Live, pool: db.Pool) -> None:
    _, token = keys.create_key(pool, 42, "ci")
    assert listing(keyed, **bearer(token)).status_code == 200

    assert listing(keyed, **bearer(token[:-1] + ("A" if token[-1] != "A" else "B"))).status_code == 401


def test_the_database_holds_no_secret(pool: db.Pool) -> None:
    key_id, token = keys.create_key(pool, 42, "ci")

    stored = str(all_rows(pool, "SELECT * FROM asynch_key"))
    assert token.removeprefix(f"ak_{key_id}_") not in stored


def test_a_revoked_key_stops_within_half_a_minute(pool: db.Pool) -> None:
    now = 100.0
    ring = KeyRing(pool, clock=lambda: now)
    key_id, token = keys.create_key(pool, 42, "ci")
    assert ring.principal_of(token) is not None
    keys.revoke_key(pool, key_id)

    now += 30
    assert ring.principal_of(token) is None


def test_a_key_that_is_known_costs_no_query(make_parts: MakeParts, pool: db.Pool) -> None:
    _, token = keys.create_key(pool, 42, "ci")
    ring = KeyRing(pool, clock=lambda: 1.0)
    first = ring.principal_of(token)
    pool.close()

    assert ring.principal_of(token) == first


def test_a_revoked_key_stops_in_every_process(make_parts: MakeParts, pool: db.Pool, dsn: str) -> None:
    now = 100.0
    key_id, token = keys.create_key(pool, 42, "ci")
    with db.open_pool(dsn, size=1, name="another-process") as other:
        rings = [KeyRing(pool, clock=lambda: now), KeyRing(other, clock=lambda: now)]
        assert all(ring.principal_of(token) for ring in rings)
        keys.revoke_key(pool, key_id)
        now += 59.0

        assert [ring.principal_of(token) for ring in rings] == [None, None]


def wrong(n: int) -> str:
    """A key that was never made."""
    return f"ak_{n:016x}_{'x' * 43}"


@pytest.fixture
def proxied(make_parts: MakeParts) -> Iterator[Live]:
    """Mode apikey behind a proxy on this machine, so that clients have addresses of their own."""
    with serving(make_parts(auth={"mode": "apikey"}, server={"trusted_proxies": ["127.0.0.1"]})) as running:
        yield running


def flood(live: Live, address: str, most: int = 60) -> requests.Response:
    """Wrong keys from an address until something other than 401 is said, or 60 times."""
    for n in range(most):
        answer = listing(live, **bearer(wrong(n)), **{"X-Forwarded-For": address})
        if answer.status_code != 401:
            break
    return answer


def test_many_wrong_keys_from_one_address_are_429_and_others_are_not_concerned(
    proxied: Live, pool: db.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    _, token = keys.create_key(pool, 42, "ci")
    refused = flood(proxied, "192.0.2.1")

    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_failures")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert listing(proxied, **bearer(wrong(1)), **{"X-Forwarded-For": "192.0.2.2"}).status_code == 401
    assert listing(proxied, **bearer(token), **{"X-Forwarded-For": "192.0.2.2"}).status_code == 200
    # a key that was just proved goes on working also from where the flood comes from
    assert listing(proxied, **bearer(token), **{"X-Forwarded-For": "192.0.2.1"}).status_code == 200
    logged = [record for record in caplog.records if record.getMessage() == "authentication failed"]
    assert 10 <= len(logged) <= 40
    assert "x" * 43 not in str([vars(record) for record in logged])


def test_an_address_of_ipv6_is_one_with_its_network(proxied: Live) -> None:
    assert flood(proxied, "2001:db8::1").status_code == 429

    assert listing(proxied, **bearer(wrong(1)), **{"X-Forwarded-For": "2001:db8::2"}).status_code == 429
    assert listing(proxied, **bearer(wrong(1)), **{"X-Forwarded-For": "2001:db8:0:1::2"}).status_code == 401


def test_requests_without_a_key_are_no_attempts(proxied: Live) -> None:
    for _ in range(60):
        assert listing(proxied).status_code == 401


def test_an_address_may_try_again_after_the_time_it_was_told() -> None:
    now = 0.0
    guesses = Guesses(clock=lambda: now)
    for _ in range(MOST):
        guesses.check("192.0.2.1")
        guesses.note("192.0.2.1")
    with pytest.raises(TooOften) as caught:
        guesses.check("192.0.2.1")

    now += caught.value.retry_after_s
    guesses.check("192.0.2.1")


def test_a_request_writes_nothing_about_its_key(keyed: Live, pool: db.Pool) -> None:
    _, token = keys.create_key(pool, 42, "ci")
    before = all_rows(pool, "SELECT xmin::text, * FROM asynch_key")
    assert listing(keyed, **bearer(token)).status_code == 200

    assert all_rows(pool, "SELECT xmin::text, * FROM asynch_key") == before


def test_a_key_can_be_revoked_once(pool: db.Pool) -> None:
    key_id, _ = keys.create_key(pool, 42, "ci")
    keys.revoke_key(pool, key_id)

    with pytest.raises(UserError):
        keys.revoke_key(pool, key_id)
    assert [key.revoked_at is not None for key in keys.list_keys(pool)] == [True]


# What principals may do


def test_a_user_may_not_name_another_tenant(keyed: Live, pool: db.Pool) -> None:
    _, token = keys.create_key(pool, 42, "ci")

    assert listing(keyed, {"tenantId": "43"}, **bearer(token)).status_code == 403
    assert listing(keyed, {"tenantId": 42}, **bearer(token)).status_code == 200


def test_an_admin_lists_another_tenants_models(keyed: Live, pool: db.Pool) -> None:
    _, user = keys.create_key(pool, 42, "ci")
    _, admin = keys.create_key(pool, 1, "ops", admin=True)
    tenant_of(keyed, **bearer(user))

    assert listing(keyed, {"tenantId": "42"}, **bearer(admin)).json()["total"] == 1
    assert listing(keyed, **bearer(admin)).json()["total"] == 0


@pytest.mark.parametrize(("trusted", "seen"), [([], "127.0.0.1"), (["127.0.0.0/8", "10.0.0.0/8"], "192.0.2.9")])
def test_the_op_log_believes_only_trusted_proxies(
    make_parts: MakeParts, pool: db.Pool, trusted: list[str], seen: str
) -> None:
    with serving(make_parts(server={"trusted_proxies": trusted})) as live:
        tenant_of(live, **{"X-Forwarded-For": "203.0.113.1, 192.0.2.9, 10.1.1.1"})

    assert [r["ip"] for r in all_rows(pool, "SELECT ip FROM asynch_op_log")] == [seen]
