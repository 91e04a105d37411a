"""Who may call what: every route, as nobody, a user and an admin, about one's own things and another tenant's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from asynch import db
from asynch.web.app import create_app
from asynch.web.openapi.document import methods_of
from tests.live import MakeParts, serving
from tests.routes import NAMING, OFTEN, OTHER, OWN, ROUTES, Cast, cast_on


@pytest.fixture
def app(make_parts: MakeParts) -> Flask:
    return create_app(make_parts())


def routes_of(app: Flask) -> set[str]:
    return {f"{method} {rule.rule}" for rule in app.url_map.iter_rules() for method in methods_of(rule)}


def test_every_route_is_in_the_table(app: Flask) -> None:
    there = routes_of(app)

    assert there - set(ROUTES) == set(), (
        "these routes need a line each in ROUTES of tests/routes.py: "
        "Row(request about a tenant's things, status for its user, for its admin, for callers of another tenant)"
    )
    assert set(ROUTES) - there == set(), "these lines of ROUTES name no route any more"


@pytest.fixture
def team(make_parts: MakeParts, pool: db.Pool) -> Iterator[Cast]:
    with serving(make_parts(auth={"mode": "apikey"}, uploads=OFTEN)) as live:
        yield cast_on(live, pool)


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_answers_each_as_the_table_says(team: Cast, route: str) -> None:
    row = ROUTES[route]
    answers = {
        "nobody": (team.send(None, route, team.things()), row.nobody),
        "user": (team.send((OWN, "user"), route, team.things()), row.user),
        "admin": (team.send((OWN, "admin"), route, team.things()), row.admin),
    }
    if row.foreign is not None:
        for role in ("user", "admin"):
            answers[f"another tenant's {role}"] = team.send((OTHER, role), route, team.things()), row.foreign

    ready = {503} if route == "GET /readyz" else set()  # as the storage's first look has come back or not
    assert {who: a.status_code for who, (a, wanted) in answers.items() if a.status_code not in {wanted, *ready}} == {}
    for who, (answer, wanted) in answers.items():
        if who.startswith("another") and wanted < 300:
            assert row.unseen(answer.json()), (who, answer.text)


@pytest.mark.parametrize("route", sorted(NAMING))
def test_only_an_admin_may_name_a_tenant(team: Cast, route: str) -> None:
    things = team.things()

    assert team.send((OTHER, "admin"), route, things, tenantId=str(OWN)).status_code == 200
    assert team.send((OTHER, "user"), route, things, tenantId=str(OWN)).status_code == 403


def test_what_another_tenant_tried_changed_nothing(team: Cast, pool: db.Pool) -> None:
    things, own = team.things(), (OWN, "admin")
    before = [team.send(own, route, things).json() for route in ("GET /model/getModel", "GET /task/<id:task_id>")]
    for route, row in ROUTES.items():
        if row.foreign is not None:
            team.send((OTHER, "user"), route, things)
            team.send((OTHER, "admin"), route, things)

    assert [
        team.send(own, route, things).json() for route in ("GET /model/getModel", "GET /task/<id:task_id>")
    ] == before


def test_models_are_changed_by_admins_alone_where_users_may_not(make_parts: MakeParts, pool: db.Pool) -> None:
    with serving(make_parts(auth={"mode": "apikey", "users_manage_models": False}, uploads=OFTEN)) as live:
        team = cast_on(live, pool)
        for route, row in ROUTES.items():
            user = team.send((OWN, "user"), route, team.things())
            if row.manages:
                assert user.status_code == 403, route
                assert team.send((OWN, "admin"), route, team.things()).status_code == row.admin, route
            elif route != "GET /readyz":
                assert user.status_code == row.user, route
