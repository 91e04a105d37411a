"""kill -9 around a delivery: every end is told at least once, and always under the same id."""

from __future__ import annotations

import pytest

from tests.chaos.farm import Farm
from tests.receiver import Receiver
from tests.waiting import until


@pytest.mark.parametrize(("point", "messages"), [("saved", 1), ("delivered", 1), ("called:2", 2), ("done", 1)])
def test_an_end_is_told_whatever_dies(farm: Farm, receiver: Receiver, point: str, messages: int) -> None:
    farm.create_model()
    victim = farm.start_worker(crash_point=point)
    body = {"modelName": "m", "requestPayload": {"size": 3000}, "callbackUrl": receiver.url}
    answer = farm.live.call("POST", "/task/createTask", body)
    task_id = answer.json()["taskId"]

    victim.died_by_kill()
    farm.start_worker()

    until(lambda: farm.ask("SELECT 1 FROM asynch_task WHERE parent_id = %s AND final", int(task_id)))
    assert len(receiver.messages) == messages
    assert len({message.id for message in receiver.messages}) == 1
    assert {(m.told["type"], m.told["data"]["taskId"]) for m in receiver.messages} == {("task.completed", task_id)}
    (row,) = farm.ask("SELECT state, retry_count FROM asynch_task WHERE parent_id = %s", int(task_id))
    assert (row["state"], row["retry_count"]) == (2, 0)
