"""The SDK against the real application."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynch.client import (
    Client,
    ClientError,
    IncompleteError,
    RefusedError,
    UnreachableError,
    WaitTimeoutError,
    batches,
)
from asynch.service import keys
from tests.live import MakeParts, serving
from tests.task_api import NOWHERE, Api

TENANT = 7


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(api.live.url, tenant_id=TENANT, retry_s=5) as made:
        made.create_model(modelName="m", baseUrl=NOWHERE, queueLimit=50_000)
        yield made


def tasks(count: int) -> list[dict[str, object]]:
    return [{"modelName": "m", "requestPayload": {"n": n}} for n in range(count)]


# -- models --------------------------------------------------------------------------------------------------------


def test_a_model_lives_through_its_calls(client: Client) -> None:
    made = client.create_model(modelName="n", baseUrl=NOWHERE, maxConcurrency=3)
    client.update_model(id=made, maxConcurrency=4)

    assert client.get_model("n")["maxConcurrency"] == 4
    assert [model["modelName"] for model in client.list_models()] == ["n", "m"]
    client.delete_model(made)
    assert [model["modelName"] for model in client.list_models()] == ["m"]


# -- creating ------------------------------------------------------------------------------------------------------


def test_the_same_key_makes_no_second_task(client: Client) -> None:
    first, second = (client.create_task("m", {"a": 1}, idempotency_key="k") for _ in range(2))

    assert first == second


def test_two_tasks_alike_are_two_tasks(client: Client) -> None:
    assert client.create_task("m", 1) != client.create_task("m", 1)


def test_a_long_list_comes_back_in_order(client: Client) -> None:
    told: list[int] = []

    made = client.create_tasks(tasks(10_500), on_created=lambda results: told.append(len(results)))

    assert [result["index"] for result in made] == list(range(10_500))
    assert len({result["taskId"] for result in made}) == 10_500
    assert told == [10_000, 500]
    assert len(client.get_tasks(result["taskId"] for result in made[:2500])) == 2500


def test_a_heavy_list_is_cut_by_its_size(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_BODY", 2000)
    told: list[int] = []

    made = client.create_tasks(
        [{"modelName": "m", "requestPayload": "x" * size} for size in (900, 900, 5000, 900)],
        on_created=lambda results: told.append(len(results)),
    )

    assert told == [3, 1]
    assert [result.get("error", {}).get("code") for result in made] == [None, None, "body_too_large", None]
    assert [result["index"] for result in made] == [0, 1, 2, 3]


def test_each_bad_task_has_its_error_at_its_index(client: Client) -> None:
    made = client.create_tasks(
        [{"modelName": "none"}, {"modelName": "m", "requestPayload": float("nan")}, {"modelName": "m"}, {}]
    )

    assert ["taskId" in result for result in made] == [False, False, True, False]
    assert made[0]["error"]["code"] == "model_not_found"
    assert "JSON" in made[1]["error"]["detail"]


def test_half_of_a_surrogate_pair_spoils_its_own_task_only(client: Client) -> None:
    made = client.create_tasks([{"modelName": "m", "bizName": "\ud800"}, {"modelName": "m"}])

    assert ["taskId" in result for result in made] == [False, True]


def test_a_list_that_breaks_off_brings_its_ids_and_may_be_repeated(client: Client) -> None:
    def broken() -> Iterator[dict[str, object]]:
        yield from tasks(10_001)
        raise RuntimeError("the source ended")

    with pytest.raises(IncompleteError, match="the source ended") as caught:
        client.create_tasks(broken())

    key = caught.value.idempotency_key
    assert len(caught.value.created) == 10_000
    again = client.create_tasks(tasks(10_001), idempotency_key=key)
    assert again[:10_000] == caught.value.created


# -- reading -------------------------------------------------------------------------------------------------------


def test_a_wait_that_is_over_tells_all_ids(client: Client) -> None:
    cancelled, still_open = client.create_task("m"), client.create_task("m")
    client.cancel(cancelled)

    with pytest.raises(WaitTimeoutError, match="1 of 2") as caught:
        client.wait((i for i in (cancelled, still_open)), timeout_s=0.5)

    assert caught.value.pending == [still_open]
    assert caught.value.items[cancelled]["status"] == "cancelled"
    assert set(caught.value.ids) == {cancelled, still_open}


def test_a_wait_tells_changes_and_ends_with_the_last(client: Client) -> None:
    one, two = client.create_task("m"), client.create_task("m")
    client.cancel(one)
    seen: list[tuple[str, str]] = []

    def on_change(item: object) -> None:
        assert isinstance(item, dict)
        seen.append((item["taskId"], item["status"]))
        if item["status"] == "pending":
            client.cancel(two)

    found = client.wait([one, two, "123"], 20, on_change)

    assert [found[i]["status"] for i in (one, two, "123")] == ["cancelled", "cancelled", "missing"]
    assert seen.count((two, "pending")) == 1
    assert (two, "cancelled") in seen


def test_the_status_and_a_second_run(client: Client) -> None:
    made = client.create_task("m", bizName="b")
    client.cancel(made)

    assert client.retry(made)["status"] == "pending"
    assert client.status(made)["bizName"] == "b"
    with pytest.raises(RefusedError) as caught:
        client.retry(made)
    assert caught.value.status == 409


# -- results -------------------------------------------------------------------------------------------------------


def test_nothing_is_written_before_there_is_a_result(client: Client, tmp_path: Path) -> None:
    made = client.create_task("m")

    with pytest.raises(RefusedError, match="not_final"):
        client.download(made, tmp_path / "out")
    client.cancel(made)
    with pytest.raises(RefusedError, match="409 cancelled"):
        client.download(made, io.BytesIO())

    assert not [path for path in tmp_path.iterdir() if path.name not in ("files", "tmp")]


# -- errors --------------------------------------------------------------------------------------------------------


def test_a_refusal_is_one_line_with_the_requests_id(client: Client) -> None:
    with pytest.raises(RefusedError) as caught:
        client.create_model(modelName="", baseUrl=NOWHERE)

    refused = caught.value
    assert (refused.status, refused.code) == (422, "invalid_input")
    assert refused.errors[0]["pointer"] == "#/modelName"
    assert "\n" not in str(refused)
    assert refused.request_id
    assert refused.request_id in str(refused)


def test_a_server_that_is_away_is_told_without_paths(client: Client) -> None:
    with Client("http://127.0.0.1:9", retry_s=0) as nobody, pytest.raises(UnreachableError) as caught:
        nobody.create_task("m")

    assert str(caught.value) == "no answer from http://127.0.0.1:9: Connection refused"
    assert caught.value.idempotency_key


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://h", "http://u:p@h", "http://"])
def test_a_url_that_cannot_be_one_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Client(url)


def test_a_429_is_repeated_when_its_time_has_come(make_parts: MakeParts) -> None:
    with serving(make_parts()) as live, Client(live.url, tenant_id=TENANT, retry_s=20) as client:
        client.create_model(modelName="m", baseUrl=NOWHERE, queueLimit=1)
        first = client.create_task("m")
        with Client(live.url, tenant_id=TENANT, retry_s=1) as hasty, pytest.raises(RefusedError, match="queue_full"):
            hasty.create_task("m")
        client.cancel(first)
        assert client.create_task("m") != first


def test_a_key_says_who_calls_and_is_in_no_error(make_parts: MakeParts) -> None:
    parts = make_parts(auth={"mode": "apikey"})
    _, token = keys.create_key(parts.pool, TENANT, "ci")
    with serving(parts) as live:
        with Client(live.url, token=token) as client:
            assert client.list_models() == []
        with Client(live.url, token=token + "x") as stranger, pytest.raises(ClientError, match="401") as caught:
            stranger.list_models()
    assert token not in str(caught.value)


def test_a_typed_user_passes_mypy_strict(tmp_path: Path) -> None:
    program = tmp_path / "user.py"
    program.write_text(
        "from asynch.client import Client, Item, WaitTimeoutError\n"
        "with Client('http://h', token='t') as client:\n"
        "    client.create_model(modelName='m', baseUrl='http://m', maxConcurrency=2)\n"
        "    made = client.create_tasks([{'modelName': 'm'}])\n"
        "    ids: list[str] = [result['taskId'] for result in made if 'taskId' in result]\n"
        "    try:\n"
        "        items: dict[str, Item] = client.wait(ids, 60)\n"
        "    except WaitTimeoutError as exc:\n"
        "        ids = exc.pending\n"
        "    size: int = client.download(ids[0], 'x')\n"
        "    word: str = client.status(ids[0])['status']\n"
    )

    answer = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", program],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert answer.returncode == 0, answer.stdout
