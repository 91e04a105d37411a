"""/tenant: limits over all of a tenant's lanes, for admins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from asynch import db
from tests.database import all_rows
from tests.rows import add_model
from tests.task_api import Api, pointers, problem


@pytest.fixture
def admin(api: Api) -> Api:
    return api.of(7, "admin")


def get(api: Api, query: str = "") -> dict[str, Any]:
    answer = api.call("GET", f"/tenant/getTenant{query}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def put(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.call("PUT", "/tenant/updateTenant", body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.fixture
def heard(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A session that listens as workers do."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("LISTEN asynch_lane")
        yield conn


def test_a_tenant_without_limits_has_the_installations(admin: Api) -> None:
    assert get(admin) == {"tenantId": "7", "maxConcurrency": 0, "queueLimit": 0, "updater": "", "updatedAt": None}


def test_what_is_set_is_told(admin: Api) -> None:
    told = put(admin, tenantId="9", maxConcurrency=3, queueLimit=50)

    assert (told["tenantId"], told["maxConcurrency"], told["queueLimit"], told["updater"]) == ("9", 3, 50, "eva")
    assert get(admin, "?tenantId=9") == told
    assert get(admin)["maxConcurrency"] == 0


def test_absent_or_null_stays_and_0_is_the_default_again(admin: Api) -> None:
    put(admin, maxConcurrency=3, queueLimit=50)

    assert put(admin, maxConcurrency=None)["maxConcurrency"] == 3
    assert put(admin, maxConcurrency=0)["queueLimit"] == 50
    assert get(admin)["maxConcurrency"] == 0


def test_a_first_change_of_one_limit_leaves_the_other_at_its_default(admin: Api) -> None:
    assert put(admin, queueLimit=5)["maxConcurrency"] == 0


@pytest.mark.parametrize(("body", "where"), [
    ({"maxConcurrency": -1}, "#/maxConcurrency"), ({"queueLimit": 2**31}, "#/queueLimit"),
    ({"queueLimit": "5"}, "#/queueLimit"), ({"queueLimit": True}, "#/queueLimit"),
    ({"tenantId": 2**63}, "#/tenantId"), ({"tenant": 1}, "#/tenant"),
])  # fmt: skip
def test_what_is_no_limit_is_422(admin: Api, body: dict[str, Any], where: str) -> None:
    assert pointers(admin.call("PUT", "/tenant/updateTenant", body)) == [where]


@pytest.mark.parametrize("tenant", ["", "?tenantId=7", "?tenantId=8"])
def test_users_see_and_change_no_limits(api: Api, tenant: str) -> None:
    user = api.of(7)

    assert problem(user.call("GET", f"/tenant/getTenant{tenant}")) == (403, "forbidden")
    assert problem(user.call("PUT", "/tenant/updateTenant", {"queueLimit": 0})) == (403, "forbidden")


def test_a_change_is_in_the_op_log_and_a_refused_one_changed_nothing(admin: Api, pool: db.Pool) -> None:
    put(admin, tenantId=8, queueLimit=5)
    admin.of(7).call("PUT", "/tenant/updateTenant", {"tenantId": 8, "queueLimit": 6})

    rows = all_rows(pool, "SELECT tenant_id, op_type, creator, request_payload FROM asynch_op_log")
    assert [tuple(row.values()) for row in rows] == [(7, "updateTenant", "eva", '{"tenantId":"8","queueLimit":5}')]
    assert get(admin, "?tenantId=8")["queueLimit"] == 5


def test_a_change_has_the_workers_look_at_the_tenants_lanes(
    admin: Api, pool: db.Pool, heard: psycopg.Connection[Any]
) -> None:
    lanes = {add_model(pool, name, tenant_id=8) for name in ("a", "b")}
    add_model(pool, "of another", tenant_id=9)
    put(admin, tenantId=8, maxConcurrency=1)

    (notice,) = heard.notifies(timeout=5, stop_after=1)
    assert set(map(int, notice.payload.split(","))) == lanes
