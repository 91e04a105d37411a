"""What a sender of files may try with other ends in mind: it is refused or harmless, and never a fault of the service."""

from __future__ import annotations

import pytest

from tests.task_api import Api, problem


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def test_the_work_on_a_file_is_no_delivery(api: Api) -> None:
    sent = api.call("POST", "/api/file/upload", files={"file": ("a.txt", b"text")}).json()

    assert api.call("POST", "/webhook/listDelivery", {}).json()["list"] == []
    assert problem(api.call("POST", f"/webhook/{sent['task_id']}/redeliver")) == (404, "not_found")
