"""Models that hang, drip, cut, lie about the length or answer too much: their tasks fail, and nothing else does."""

from __future__ import annotations

from typing import Any

import psutil

from asynch.domain.states import State
from tests.chaos.farm import Farm
from tests.chaos.invariants import check_invariants

MIB = 1 << 20
#: payload: the error code its task must end with, empty for a success
ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"hang": True}, "model_timeout"),
    ({"size": 400, "drip": 0.05}, "model_timeout"),
    ({"size": 5000, "cut_after": 1000}, "bad_response"),
    ({"size": 5000, "chunked": True, "cut_after": 1000}, "bad_response"),
    ({"size": 5000, "lie_length": 10}, "bad_response"),
    ({"size": 50 * MIB}, "result_too_large"),
    ({"size": 50 * MIB, "chunked": True}, "result_too_large"),
    ({"status": 503}, "model_http_error"),
    ({"size": 0}, ""),
    ({"size": 3 * MIB}, ""),
]


def test_a_misbehaving_model_fails_its_own_tasks_only(farm: Farm) -> None:
    farm.create_model(timeoutSeconds=3, maxResultBytes=4 * MIB)
    farm.start_worker()

    ids = farm.create(*[payload for payload, _ in ANSWERS])

    check_invariants(farm)
    codes = {task_id: farm.task(task_id)["error_code"] for task_id in ids}
    assert codes == dict(zip(ids, [code for _, code in ANSWERS], strict=True))


def test_fifty_megabytes_never_lie_in_memory(farm: Farm) -> None:
    farm.create_model()
    worker = farm.start_worker()
    farm.create({"size": 10})
    farm.finish()
    before = psutil.Process(worker.pid).memory_info().rss

    ids = farm.create(*[{"size": 50 * MIB}] * 3)
    farm.finish()

    assert psutil.Process(worker.pid).memory_info().rss - before < 30 * MIB
    check_invariants(farm)
    assert {farm.task(task_id)["state"] for task_id in ids} == {State.SUCCEEDED}
