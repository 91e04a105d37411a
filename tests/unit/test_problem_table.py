from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from werkzeug.exceptions import NotFound as NoSuchUrl

from asynch import errors
from asynch.errors import AsynchError, Conflict, DatabaseDown, Forbidden, InvalidInput, Mistake, QueueFull, Refused
from asynch.web import problem


def subclasses(base: type[Refused]) -> Iterator[type[Refused]]:
    for sub in base.__subclasses__():
        yield sub
        yield from subclasses(sub)


@pytest.fixture
def app() -> Flask:
    made = Flask("test")
    problem.register(made)
    return made


def raising(app: Flask, exc: Exception) -> tuple[int, dict[str, object], dict[str, str]]:
    @app.get("/raise")
    def view() -> str:
        raise exc

    answer = app.test_client().get("/raise")
    assert answer.content_type == "application/problem+json"
    return answer.status_code, answer.get_json(), dict(answer.headers)


def test_each_refusal_of_the_tree_has_a_row_of_its_own() -> None:
    known = [cls for cls in subclasses(Refused) if cls.__module__ == errors.__name__]

    assert len(known) >= 9
    assert [cls for cls in known if cls not in problem.TABLE] == []


def test_a_refusal_made_of_another_answers_as_that_one() -> None:
    class Narrower(Forbidden):
        pass

    assert problem.kind_of(Narrower("no")).status == 403


def test_an_error_nobody_meant_for_callers_is_not_in_the_table() -> None:
    with pytest.raises(LookupError):
        problem.kind_of(AsynchError("inside"))


def test_no_two_refusals_share_a_status() -> None:
    # too much in a queue and too often from a caller are told apart by their code
    statuses = [kind.status for cls, kind in problem.TABLE.items() if issubclass(cls, Refused) and cls is not QueueFull]

    assert len(statuses) == len(set(statuses))


def test_a_full_queue_tells_its_numbers_and_when_to_come_back(app: Flask) -> None:
    status, body, headers = raising(app, QueueFull("full", queueLimit=5, queueDepth=5))

    assert (status, body["code"], body["queueLimit"], body["queueDepth"]) == (429, "queue_full", 5, 5)
    assert int(headers["Retry-After"]) > 0


def test_invalid_input_points_at_each_mistake(app: Flask) -> None:
    status, body, _ = raising(app, InvalidInput([Mistake("#/a", "wrong"), Mistake("#/b/0", "worse")]))

    assert status == 422
    assert body["errors"] == [{"pointer": "#/a", "detail": "wrong"}, {"pointer": "#/b/0", "detail": "worse"}]


def test_an_extra_member_cannot_replace_a_fixed_one(app: Flask) -> None:
    status, body, _ = raising(app, Conflict("no", status=200, more="x"))

    assert (status, body["status"], body["more"]) == (409, 409, "x")


def test_what_the_driver_said_is_not_shown(app: Flask) -> None:
    status, body, headers = raising(app, DatabaseDown('connection to "10.1.2.3" as user "root" failed'))

    assert (status, body["code"]) == (503, "database_down")
    assert "10.1.2.3" not in str(body)
    assert "Retry-After" in headers


def test_an_unexpected_error_shows_nothing_of_itself(app: Flask) -> None:
    status, body, _ = raising(app, RuntimeError("SELECT secret FROM table"))

    assert (status, body["code"]) == (500, "internal")
    assert "secret" not in str(body)


def test_an_unexpected_error_is_in_the_log_with_its_traceback(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    raising(app, RuntimeError("the cause"))

    assert "the cause" in caplog.text
    assert "Traceback" in caplog.text


def test_errors_of_the_framework_are_problem_documents_too(app: Flask) -> None:
    status, body, _ = raising(app, NoSuchUrl())

    assert (status, body["status"], body["code"], body["title"]) == (404, 404, "not_found", "Not Found")
