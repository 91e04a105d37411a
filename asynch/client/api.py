"""The calls of the contract as methods: each says which route it is and whether it may be repeated."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, Unpack
from urllib.parse import quote, urljoin

from asynch.client import download
from asynch.client.batches import GET_LIMIT, Batch, batches, chunks
from asynch.client.errors import ClientError, IncompleteError, RefusedError
from asynch.client.shapes import Created, Item, Model, ModelChanges, NewModel, StatusDocument, TaskFields
from asynch.client.transport import Repeat, Transport, decoded, encoded
from asynch.client.uploading import OnProgress, Upload, UploadedFile
from asynch.client.waiting import OnChange, Waiting

_PAGE = 1000


class Client:
    """One caller of one asynch server; holds a connection, so one thread at a time.

    Every method raises a ClientError when the server refuses or cannot be reached. What may be sent twice is sent
    again for up to `retry_s` when the connection breaks, after 429, 502, 503 and 504: reads, the create calls of
    tasks by their idempotency key, cancel and update_model. The others only when surely nothing was done.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        tenant_id: int | None = None,
        user_name: str = "client",
        timeout_s: float = 30,
        retry_s: float = 60,
    ) -> None:
        """`token` is an API key or JWT; tenant and user are believed by servers with auth mode `none` only.

        `timeout_s` is how long one answer may keep silent. ValueError for a URL or token that cannot be one.
        """
        user = {"tenantId": tenant_id, "userName": user_name, "role": "user"}
        self._transport = Transport(
            base_url,
            token=token,
            user=None if tenant_id is None else json.dumps(user),
            timeout_s=timeout_s,
            retry_s=retry_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._transport.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        repeat: Repeat = Repeat.UNSENT,
    ) -> Any:
        """Make any call of the contract; the answer's JSON, None when it has no body."""
        text = None if body is None else encoded(body)
        return decoded(self._transport.call(method, path, body=text, params=params, timeout_s=timeout_s, repeat=repeat))

    # models

    def create_model(self, **fields: Unpack[NewModel]) -> str:
        """Register a model (`modelName`, `baseUrl`, …); its id. 409 when the name is taken."""
        return str(self.request("POST", "/model/createModel", body=fields)["id"])

    def update_model(self, **fields: Unpack[ModelChanges]) -> str:
        """Change what is given of the model named by `id`, or else by `modelName`; its id."""
        return str(self.request("PUT", "/model/updateModel", body=fields, repeat=Repeat.SAFE)["id"])

    def delete_model(self, model_id: str | int, *, force: bool = False) -> None:
        """Delete a model. 409 while tasks are not final, unless `force`, which cancels them."""
        params = {"id": str(model_id), **({"force": "true"} if force else {})}
        self.request("DELETE", "/model/deleteModel", params=params)

    def get_model(self, model_name: str) -> Model:
        """The model of this name."""
        answer = self.request("GET", "/model/getModel", params={"modelName": model_name}, repeat=Repeat.SAFE)
        model: Model = answer
        return model

    def list_models(self, name: str = "") -> list[Model]:
        """All models whose name contains `name`, newest first."""
        found: dict[str, Model] = {}  # one made meanwhile moves the pages, and would show a model twice
        page = 1
        while True:
            body = {"page": {"pageNum": page, "pageSize": _PAGE}, "modelName": name}
            answer = self.request("POST", "/model/listModel", body=body, repeat=Repeat.SAFE)
            found |= {model["id"]: model for model in answer["list"]}
            if len(answer["list"]) < _PAGE:
                return list(found.values())
            page += 1

    # tasks

    def create_task(
        self, model_name: str, payload: Any = None, *, idempotency_key: str | None = None, **fields: Unpack[TaskFields]
    ) -> str:
        """Queue one task; its id. A full queue is waited for (`retry_s`), then it is RefusedError `queue_full`."""
        body = encoded({"modelName": model_name, "requestPayload": payload, **fields})
        answer = self._create("/task/createTask", body, idempotency_key or uuid.uuid4().hex)
        return str(answer["taskId"])

    def create_tasks(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        on_created: Callable[[list[Created]], None] | None = None,
    ) -> list[Created]:
        """Queue many tasks (NewTask); for each, in order, `{index, taskId}` or `{index, error}`.

        More than 10,000, or than 64 MiB, go in several calls; `on_created` is told the results of each. When a
        later call fails, IncompleteError brings what is created. The same items with the same `idempotency_key`
        make no task a second time.
        """
        key = idempotency_key or uuid.uuid4().hex
        results: list[Created] = []
        try:
            for number, batch in enumerate(batches(items)):
                made = self._create_batch(batch, f"{key}/{number}" if number else key)
                results += made
                if on_created is not None:
                    on_created(made)
        except Exception as exc:  # the caller's own too: with results at hand no id may be lost
            if results:
                raise IncompleteError(results, key, exc) from exc
            if isinstance(exc, ClientError):
                exc.idempotency_key = key
            raise
        return results

    def _create_batch(self, batch: Batch, key: str) -> list[Created]:
        if not batch.indexes:
            return batch.results(())
        return batch.results(self._create("/task/createTaskBatch", batch.body(), key)["list"])

    def _create(self, path: str, body: bytes, key: str) -> Any:
        try:
            return decoded(
                self._transport.call(
                    "POST", path, body=body, headers={"Idempotency-Key": f'"{key}"'}, repeat=Repeat.SAFE
                )
            )
        except ClientError as exc:
            exc.idempotency_key = key
            raise

    def get_tasks(self, ids: Iterable[str | int], wait_s: float = 0) -> list[Item]:
        """The tasks as they are now, in the order asked, each once; a success counts as fetched.

        With `wait_s` (≤ 30) the answer comes when all are final or the time is over. Ids the server does not
        know come as `{taskId, state: None, status: "missing", final: True}`, purged ones with status "gone".
        """
        return self._get_tasks(ids, wait_s, self._transport.timeout_s, Repeat.SAFE)

    def _get_tasks(self, ids: Iterable[str | int], wait_s: float, timeout_s: float, repeat: Repeat) -> list[Item]:
        wanted = list(dict.fromkeys(str(task_id) for task_id in ids))
        found: dict[str, Item] = {}
        for chunk in chunks(wanted, GET_LIMIT):
            # the server waits for one call's ids only: the first calls tell, the last one waits
            wait = wait_s if chunk[-1] == wanted[-1] else 0
            body = {"taskIds": chunk, "waitSeconds": wait}
            answer = self.request("POST", "/task/getTaskBatch", body=body, timeout_s=timeout_s + wait, repeat=repeat)
            found |= {item["taskId"]: item for item in _items(answer)}
        return [found[task_id] for task_id in wanted if task_id in found]

    def wait(
        self, ids: Iterable[str | int], timeout_s: float = 3600, on_change: OnChange | None = None
    ) -> dict[str, Item]:
        """Wait until all are final; the items by id, unknown and purged ones as `get_tasks` gives them.

        `on_change` is told each item whose state, retries or progress are new. A server that is away or restarting
        is asked again with growing pauses. Raises WaitTimeoutError when the time is over, which is after one look
        at the earliest; it has all ids and the final items, as has the WaitError of any other refusal.
        """

        def poll(pending: list[str], wait_s: float, left_s: float) -> list[Item]:
            return self._get_tasks(pending, wait_s, min(self._transport.timeout_s, left_s), Repeat.NEVER)

        return Waiting(ids, on_change).run(poll, timeout_s)

    def status(self, task_id: str | int) -> StatusDocument:
        """All there is to know of one task; never counts as fetched. 404 unknown, 410 purged or expired."""
        document: StatusDocument = self.request("GET", _path(task_id), repeat=Repeat.SAFE)
        return document

    def cancel(self, task_id: str | int) -> StatusDocument:
        """Cancel one task; a final one stays as it is. A running one is final once its call is cut."""
        document: StatusDocument = self.request("POST", f"{_path(task_id)}/cancel", repeat=Repeat.SAFE)
        return document

    def retry(self, task_id: str | int) -> StatusDocument:
        """Run a task again that failed finally or was cancelled; 409 for any other."""
        document: StatusDocument = self.request("POST", f"{_path(task_id)}/retry")
        return document

    def download(self, task_id: str | int, target: str | os.PathLike[str] | BinaryIO) -> int:
        """Write a task's result to a path, whole or not at all, or to an open binary file; its size in bytes.

        RefusedError 202 `not_final` before it is final, 409 when it has none, 410 when it is gone. Disk errors
        come as OSError. To a path a broken download is repeated; in an open file its beginning may stand.
        """
        url = self._result_url(task_id)
        if isinstance(target, str | os.PathLike):
            path = Path(target)
            return self._transport.repeated(lambda: download.to_path(url, path, self._transport.timeout_s), Repeat.SAFE)
        return download.to_file(url, target, self._transport.timeout_s)

    # files

    def upload(
        self,
        path: str | os.PathLike[str],
        *,
        scene: str = "",
        tags: Iterable[str] = (),
        on_progress: OnProgress | None = None,
        timeout_s: float = 3600,
    ) -> UploadedFile:
        """Send a file in pieces and wait until it is stored; what is cut goes on from the last byte that came.

        Each piece is tried for up to `retry_s`, so a restart of the server costs no byte that it has. `on_progress`
        is told `sending` and per cent of the bytes, then the server's stages. RefusedError for a type or size that
        is not taken; UploadError, which has the `task_id`, when it fails later or is not stored within `timeout_s`.
        ValueError for a tag with a comma; disk errors come as OSError.
        """
        sending = Upload(self._transport, Path(path), on_progress, timeout_s)
        sending.send(scene, tags)
        return sending.wait()

    def _result_url(self, task_id: str | int) -> str:
        path = f"{_path(task_id)}/result"
        answer = self._transport.call("GET", path, repeat=Repeat.SAFE)
        if answer.status_code == 303:
            return urljoin(self._transport.base_url + path, answer.headers["Location"])
        raise RefusedError(answer.status_code, "not_final", f"task {task_id} has no result yet")


def _path(task_id: str | int) -> str:
    return f"/task/{quote(str(task_id), safe='')}"


def _items(answer: Mapping[str, Any]) -> Iterator[Item]:
    yield from answer["list"]
    for task_id in answer["missing"]:
        yield {"taskId": str(task_id), "state": None, "status": "missing", "final": True}
    for task_id in answer["gone"]:
        yield {"taskId": str(task_id), "state": None, "status": "gone", "final": True}
