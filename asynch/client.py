"""The SDK: asynch's HTTP interface as a Python object; knows nothing of its tables and settings."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests

from asynch.errors import AsynchError

T = TypeVar("T")
Item = dict[str, Any]

GET_LIMIT = 1000  #: ids in one getTaskBatch
CREATE_LIMIT = 10_000  #: tasks in one createTaskBatch
LONG_POLL_S = 20
PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
#: What a restart of the server or of the proxy before it looks like; 0 = no answer at all.
PASSING = frozenset({0, 429, 502, 503, 504})


class ClientError(AsynchError):
    """The server refused a call or could not be reached.

    `status` is the HTTP status, 0 when no whole answer came; `code` and `detail` are the problem document's.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status or 'no answer'} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail


class WaitTimeoutError(AsynchError):
    """Not every task became final in time; nothing is lost, `wait` may be called again with the same ids."""

    def __init__(self, pending: Sequence[str], items: Mapping[str, Item], failures: Sequence[ClientError]) -> None:
        reason = f" (last error: {failures[-1]})" if failures else ""
        super().__init__(f"{len(pending)} of {len(pending) + len(items)} tasks are not final{reason}")
        self.pending = list(pending)  #: not known to be final
        self.items = dict(items)  #: the final ones by id

    @property
    def ids(self) -> list[str]:
        """Every id that was waited for."""
        return [*self.items, *self.pending]


def _chunks(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while chunk := list(islice(rest, size)):
        yield chunk


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _session(url: str) -> requests.Session:
    """A session for one host; no proxy of the environment can reach this machine's loopback."""
    session = requests.Session()
    session.trust_env = not _is_loopback(url)
    return session


def _problem(answer: requests.Response) -> ClientError:
    """The error an answer stands for, be it a problem document or a proxy's page."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return ClientError(answer.status_code, "http_error", answer.reason or "no reason given")
    detail = body.get("detail") or body.get("title") or answer.reason
    return ClientError(answer.status_code, str(body.get("code") or "http_error"), str(detail))


class Client:
    """One caller of one asynch server; holds a connection, so one thread at a time.

    Every method raises ClientError when the server refuses or cannot be reached; only `wait` tries again.
    """

    def __init__(
        self, base_url: str, *, token: str | None = None, tenant_id: int | None = None, timeout_s: float = 30
    ) -> None:
        """`token` is an API key or JWT; `tenant_id` is believed by servers with auth mode `none` only."""
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://, not {base_url!r}")
        self._base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._session = _session(base_url)
        if token is not None:
            self._session.auth = _bearer(token)
        if tenant_id is not None:
            user = {"tenantId": tenant_id, "userName": "client", "role": "user"}
            self._session.headers["X-User-Info"] = json.dumps(user)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Make any call of the contract; the answer's JSON, None when it has no body."""
        try:
            answer = self._session.request(
                method,
                self._base_url + path,
                json=body,
                params=params,
                timeout=timeout_s or self._timeout_s,
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            raise ClientError(0, "connection", str(exc)) from exc
        if answer.status_code >= 300:
            raise _problem(answer)
        return _json(answer)

    def create_model(self, **fields: Any) -> str:
        """Register a model (`modelName`, `baseUrl`, …); its id."""
        return str(self.request("POST", "/model/createModel", body=fields)["id"])

    def create_task(self, model_name: str, payload: Any, **fields: Any) -> str:
        """Queue one task; its id. QueueFull comes as ClientError 429 `queue_full`."""
        body = {"modelName": model_name, "requestPayload": payload, **fields}
        return str(self.request("POST", "/task/createTask", body=body)["taskId"])

    def create_tasks(self, items: Iterable[Mapping[str, Any]]) -> list[Item]:
        """Queue many createTask bodies; per item, in order, `{index, taskId}` or `{index, error}`.

        More than 10,000 go in several calls; an error in a later one leaves the earlier tasks created.
        """
        results: list[Item] = []
        for chunk in _chunks(items, CREATE_LIMIT):
            body = {"tasks": [dict(item) for item in chunk]}
            answer = self.request("POST", "/task/createTaskBatch", body=body)
            start = len(results)
            results += [{**result, "index": start + result["index"]} for result in answer["list"]]
        return results

    def get_tasks(self, ids: Iterable[str | int], wait_s: int = 0) -> list[Item]:
        """The tasks as they are now, in the order asked, each once; a success counts as fetched.

        With `wait_s` (≤ 30) the answer comes when all are final or the time is over. Ids the server does not
        know come as `{taskId, state: None, status: "missing", final: True}`, purged ones with status "gone".
        """
        return self._get_tasks(ids, wait_s, self._timeout_s)

    def _get_tasks(self, ids: Iterable[str | int], wait_s: int, timeout_s: float) -> list[Item]:
        wanted = list(dict.fromkeys(str(task_id) for task_id in ids))
        found: dict[str, Item] = {}
        for chunk in _chunks(wanted, GET_LIMIT):
            # the server waits for one call's ids only: the first calls tell, the last one waits
            wait = wait_s if chunk[-1] == wanted[-1] else 0
            body = {"taskIds": chunk, "waitSeconds": wait}
            answer = self.request("POST", "/task/getTaskBatch", body=body, timeout_s=timeout_s + wait)
            found |= {str(item["taskId"]): item for item in answer["list"]}
            for status in ("missing", "gone"):
                found |= {str(task_id): _absent(str(task_id), status) for task_id in answer.get(status, ())}
        return [found[task_id] for task_id in wanted if task_id in found]

    def wait(
        self, ids: Iterable[str | int], timeout_s: float, on_change: Callable[[Item], None] | None = None
    ) -> dict[str, Item]:
        """Wait until all are final; the items by id, unknown and purged ones as `get_tasks` gives them.

        `on_change` is told each item whose state, attempt count or progress is new. A server that is away or
        restarting is asked again with growing pauses. Raises WaitTimeoutError when the time is over, which is
        after one look at the earliest.
        """
        waiting = _Waiting(ids, on_change)
        deadline = monotonic() + timeout_s
        failures: list[ClientError] = []
        while True:
            try:
                waiting.see(self._poll(waiting, deadline - monotonic()))
                failures.clear()
            except ClientError as exc:
                if exc.status not in PASSING:
                    raise
                failures.append(exc)
            left_s = deadline - monotonic()
            if not waiting.pending:
                return waiting.final
            if left_s <= 0:
                raise WaitTimeoutError(waiting.pending, waiting.final, failures)
            sleep(min(left_s, PAUSES_S[min(len(failures), len(PAUSES_S) - 1)]))

    def _poll(self, waiting: _Waiting, left_s: float) -> list[Item]:
        longest_s = 1 if waiting.on_change else LONG_POLL_S
        wait_s = int(max(0, min(longest_s, left_s)))
        return self._get_tasks(waiting.pending, wait_s, min(self._timeout_s, max(1.0, left_s)))

    def cancel(self, task_id: str | int) -> Any:
        """Cancel one task; a final one stays as it is."""
        return self.request("POST", f"/task/{quote(str(task_id), safe='')}/cancel")

    def status(self, task_id: str | int) -> Item:
        """The status document of one task, attempts included; never counts as fetched."""
        document: Item = self.request("GET", f"/task/{quote(str(task_id), safe='')}")
        return document

    def download(self, url: str, path: Path) -> int:
        """Write what `url` (an `ossFile`) answers to `path`, whole or not at all; its size in bytes.

        Neither token nor tenant is sent: the URL is its own permission and may be another host's. Disk errors
        come as OSError.
        """
        part = path.with_name(path.name + ".part")
        try:
            size_bytes = self._fetch(url, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return size_bytes

    def _fetch(self, url: str, part: Path) -> int:
        try:
            with _session(url) as session, session.get(url, stream=True, timeout=self._timeout_s) as answer:
                if answer.status_code != 200:
                    raise _problem(answer)
                with part.open("wb") as file:
                    return sum(file.write(block) for block in answer.iter_content(1 << 20))
        except requests.RequestException as exc:
            raise ClientError(0, "connection", str(exc)) from exc


class _Waiting:
    """What `wait` knows so far: the ids still open, the final items, the last look of each."""

    def __init__(self, ids: Iterable[str | int], on_change: Callable[[Item], None] | None) -> None:
        self.pending = list(dict.fromkeys(str(task_id) for task_id in ids))
        self.final: dict[str, Item] = {}
        self.on_change = on_change
        self._looks: dict[str, tuple[Any, ...]] = {}

    def see(self, items: Iterable[Item]) -> None:
        """Take in one answer."""
        for item in items:
            self._tell(item)
            if item["final"]:
                # final items are asked once: a second fetch of a short-lived result may find it gone
                self.final[str(item["taskId"])] = item
        self.pending = [task_id for task_id in self.pending if task_id not in self.final]

    def _tell(self, item: Item) -> None:
        look = tuple(item.get(name) for name in ("state", "phase", "retryCount", "progress", "message"))
        if self.on_change is not None and self._looks.get(str(item["taskId"])) != look:
            self._looks[str(item["taskId"])] = look
            self.on_change(item)


def _bearer(token: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """As `auth`, not as a header: requests lets a line of ~/.netrc replace a header."""

    def sign(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.headers["Authorization"] = f"Bearer {token}"
        return prepared

    return sign


def _absent(task_id: str, status: str) -> Item:
    return {"taskId": task_id, "state": None, "status": status, "final": True}


def _json(answer: requests.Response) -> Any:
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError as exc:
        raise ClientError(answer.status_code, "bad_response", "the answer is not JSON") from exc
