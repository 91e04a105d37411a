"""The model service of the tests counts what is open as its clients see it, or no concurrency test means anything."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import requests

from asynch.executors.http import HttpExecutor
from tests.calls import LOOPBACK, assert_cut, attempt, cut_at, order, run
from tests.model_server import ModelServer
from tests.waiting import until


def test_calls_open_together_are_counted_overall_and_per_path() -> None:
    with ModelServer() as model, ThreadPoolExecutor(20) as threads:
        barrier = threading.Barrier(20)

        def call(number: int) -> None:
            barrier.wait(10)
            run(HttpExecutor(LOOPBACK), order(f"{model.url}/{number % 4}", {"sleep": 0.3}))

        list(threads.map(call, range(20)))
        assert (model.ledger.max_open, model.ledger.open) == (20, 0)
        assert model.ledger.max_open_by_path == {f"/{number}": 5 for number in range(4)}


def test_calls_one_after_another_are_never_counted_as_two() -> None:
    with ModelServer() as model, ThreadPoolExecutor(4) as threads:
        executor = HttpExecutor(LOOPBACK)
        turn = threading.Lock()

        def call(number: int) -> None:
            with turn:
                run(executor, order(model.url, {"size": number % 3 * 100_000}))

        list(threads.map(call, range(400)))
        assert model.ledger.max_open == 1


def test_a_call_that_its_client_cut_is_not_open_any_more() -> None:
    with ModelServer() as model:
        executor = HttpExecutor(LOOPBACK)
        for number in range(1, 21):
            assert_cut(
                cut_at(
                    attempt(executor, order(model.url, {"hang": True}, task_id=str(number))),
                    lambda: model.ledger.open == 1,
                )
            )
            run(executor, order(model.url, {}, task_id=str(number)))
            until(lambda: model.ledger.open == 0)
        assert model.ledger.max_open == 1
        assert [entry.outcome for entry in model.ledger.of("7")] == ["gone", "200"]


def test_a_task_fails_as_often_as_it_was_told_to() -> None:
    with ModelServer() as model:
        url = f"{model.url}/?fail_times=2&status=429&retry_after=3"
        answers = [requests.get(url, headers={"X-Asynch-Task-Id": "a"}, timeout=10) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [429, 429, 200, 200]
        assert [answer.headers.get("Retry-After") for answer in answers] == ["3", "3", None, None]


def test_the_command_serves_its_ledger_and_forgets_it_on_reset() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.model_server", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        headers = {"X-Asynch-Task-Id": "t", "X-Asynch-Attempt": "2"}
        requests.post(f"{url}/m", json={}, headers=headers, timeout=10)
        ledger = requests.get(f"{url}/__ledger", timeout=10).json()
        requests.post(f"{url}/__reset", timeout=10)
        emptied = requests.get(f"{url}/__ledger", timeout=10).json()
        process.kill()
    call = ledger["tasks"]["t"][0]
    assert (call["attempt"], call["path"], call["outcome"], ledger["max_open"]) == (2, "/m", "200", 1)
    assert (emptied["tasks"], emptied["max_open"]) == ({}, 0)
