"""The demo's story over HTTP: three tenants have sentences spoken; it starts and stops no process."""

from __future__ import annotations

import wave
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from asynch.client import Client, ClientError, Item
from asynch.demo.model import KEY, KEY_HEADER
from asynch.demo.texts import TENANTS, Tenant

MODEL_NAME = "speech"
TIME_LIMIT_S = 180.0
POLL_S = 0.25
MIN_SOUND_S = 0.2
AUDIBLE = 300  #: of 32767


class DemoError(Exception):
    """The story did not end well; the text is the line to show."""


@dataclass(slots=True)
class Order:
    """One sentence on its way: the task and what was last seen of it."""

    name: str  #: of the file, without extension
    task_id: str
    item: Item


@dataclass(slots=True)
class Party:
    """A tenant, its client and its orders."""

    tenant: Tenant
    client: Client
    orders: list[Order]

    def look(self) -> None:
        """Ask for what is not final yet."""
        open_orders = {order.task_id: order for order in self.orders if not order.item["final"]}
        for item in self.client.get_tasks(open_orders) if open_orders else ():
            open_orders[item["taskId"]].item = item

    @property
    def done(self) -> int:
        """How many are final."""
        return sum(bool(order.item["final"]) for order in self.orders)

    def told(self) -> str:
        """The counts in words; a failed call that runs again is waiting and counts as a retry."""
        states = Counter(order.item["state"] for order in self.orders if not order.item["final"])
        retries = sum(order.item.get("retryCount") or 0 for order in self.orders)
        text = f"waiting {states[0] + states[3]}, running {states[1]}, done {self.done}"
        return f"{text}, retries {retries}" if retries else text


def run(base_url: str, model_url: str, out_dir: Path, console: Console) -> int:
    """Tell the whole story; 0, or 1 after one line that says what failed.

    `model_url` is the sample model's; result files go into `out_dir`, where other files are left alone.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        parties = [_order(tenant, base_url, model_url) for tenant in TENANTS]
        _announce(parties, console)
        _watch(parties, console)
        problems = _fetch_all(parties, out_dir)
        console.print(_table(parties))
        if problems:
            raise DemoError("; ".join(problems))
        console.print(f"the files are in {out_dir.resolve()}", markup=False, soft_wrap=True, highlight=False)
    except (DemoError, ClientError, OSError) as exc:
        line = " ".join(f"demo failed: {exc}".split())
        console.print(line, style="bold red", markup=False, soft_wrap=True, highlight=False)
        return 1
    return 0


def _order(tenant: Tenant, base_url: str, model_url: str) -> Party:
    """Register the tenant's model and create its tasks in one call."""
    client = Client(base_url, tenant_id=tenant.tenant_id)
    client.create_model(
        modelName=MODEL_NAME,
        baseUrl=model_url,
        route="speak",
        apiKey=f"{KEY_HEADER}:{KEY}",
        maxConcurrency=tenant.max_concurrency,
        retryTimes=3,
        retryBackoffSeconds=1,
    )
    names = [f"{tenant.name}-{n:02}-{line.voice}" for n, line in enumerate(tenant.lines, 1)]
    results = client.create_tasks(
        {"modelName": MODEL_NAME, "requestPayload": line.payload(), "bizName": "demo", "clientRef": name}
        for name, line in zip(names, tenant.lines, strict=True)
    )
    for result in results:
        if "taskId" not in result:
            raise DemoError(f"task {names[result['index']]} was refused: {result.get('error')}")
    ids = (str(result["taskId"]) for result in results)
    orders = [Order(name, task_id, _new(task_id)) for name, task_id in zip(names, ids, strict=True)]
    return Party(tenant, client, orders)


def _new(task_id: str) -> Item:
    return {"taskId": task_id, "state": 0, "status": "pending", "final": False}


def _announce(parties: list[Party], console: Console) -> None:
    tasks = sum(len(party.orders) for party in parties)
    limits = ", ".join(f"{party.tenant.name} {party.tenant.max_concurrency}" for party in parties)
    console.print(f"{tasks} tasks for {len(parties)} tenants; calls at once: {limits}", highlight=False)


def _watch(parties: list[Party], console: Console) -> None:
    """Poll getTaskBatch until every task is final; raise DemoError when the time is over."""
    deadline = monotonic() + TIME_LIMIT_S
    with _bars(parties, console) if console.is_terminal else _lines(parties, console) as show:
        while True:
            for party in parties:
                party.look()
            show()
            waiting = [order.name for party in parties for order in party.orders if not order.item["final"]]
            if not waiting:
                return
            if monotonic() > deadline:
                raise DemoError(f"not final after {TIME_LIMIT_S:.0f} s: {', '.join(waiting)}")
            sleep(POLL_S)


@contextmanager
def _bars(parties: list[Party], console: Console) -> Iterator[Callable[[], None]]:
    """One live bar a tenant."""
    columns = ("{task.description}", BarColumn(16), MofNCompleteColumn(), "{task.fields[told]}")
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bars = [progress.add_task(p.tenant.name, total=len(p.orders), told=p.told()) for p in parties]

        def show() -> None:
            for bar, party in zip(bars, parties, strict=True):
                progress.update(bar, completed=party.done, told=party.told())

        yield show


@contextmanager
def _lines(parties: list[Party], console: Console) -> Iterator[Callable[[], None]]:
    """A plain line a tenant whenever its counts are new: for logs and pipes."""
    shown: dict[str, str] = {}

    def show() -> None:
        for party in parties:
            if shown.get(party.tenant.name) != party.told():
                shown[party.tenant.name] = party.told()
                console.print(f"{party.tenant.name}: {party.told()}", highlight=False)

    yield show


def _fetch_all(parties: list[Party], out_dir: Path) -> list[str]:
    """Download every result; what went wrong, one text a task."""
    problems = []
    for party in parties:
        for order in party.orders:
            try:
                _fetch(party.client, order, out_dir)
            except (DemoError, ClientError) as exc:
                problems.append(f"{order.name}: {exc}")
    return problems


def _fetch(client: Client, order: Order, out_dir: Path) -> None:
    item = order.item
    if item["status"] != "completed":
        raise DemoError(f"{item['status']}: {item.get('errorMsg') or 'no reason given'}")
    if item["fileType"] != "wav":
        raise DemoError(f"the result is taken for {item['fileType']!r}, not for 'wav'")
    path = out_dir / f"{order.name}.wav"
    client.download(order.task_id, path)
    sound_s = _sound_s(path)
    if sound_s < MIN_SOUND_S:
        raise DemoError(f"{path.name} holds only {sound_s:.2f} s of sound")


def _sound_s(path: Path) -> float:
    """Seconds of audible samples in a 16-bit WAV file; raise DemoError when it is none."""
    try:
        with wave.open(str(path)) as file:
            header, frames = file.getparams(), file.readframes(file.getnframes())
    except (wave.Error, EOFError) as exc:
        raise DemoError(f"{path.name} is not a WAV file: {exc}") from exc
    if header.sampwidth != 2 or len(frames) != header.nframes * header.nchannels * 2:
        raise DemoError(f"{path.name} is cut or not 16-bit")
    samples = array("h", frames)
    return float(sum(abs(sample) >= AUDIBLE for sample in samples) / (header.framerate * header.nchannels))


def _table(parties: list[Party]) -> Table:
    """Where each task's seconds went."""
    table = Table(title="seconds", title_justify="left", box=None, padding=(0, 1, 0, 0))  # fits 80 columns
    table.add_column("task", overflow="fold")
    for name in ("tenant", "file"):
        table.add_column(name, no_wrap=True)
    for name in ("waited", "called", "stored", "attempts"):
        table.add_column(name, justify="right", no_wrap=True)
    for party in parties:
        for order in party.orders:
            document = party.client.status(order.task_id)
            seconds = ["-" if value is None else f"{value:.2f}" for value in _seconds(document)]
            attempts = str(document.get("attempt") or "-")
            table.add_row(order.task_id, party.tenant.name, order.name, *seconds, attempts)
    return table


def _seconds(document: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Waited (back-off included), called (all calls), stored: together the time from creation to the end."""
    calls = [a for a in document.get("attempts") or () if a["phase"] == 0]
    called = _sum(_between(call["startedAt"], call["finishedAt"]) for call in calls)
    stored = _between(calls[-1]["finishedAt"], document["finishedAt"]) if calls else None
    total = _between(document["createdAt"], document["finishedAt"])
    if called is None or stored is None or total is None:
        return _between(document["createdAt"], document["startedAt"]), called, stored
    return max(0.0, total - called - stored), called, stored


def _between(start: str | None, end: str | None) -> float | None:
    """Seconds between two times of the contract, None when one is unknown."""
    if start is None or end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum, None when there is nothing to add or a part is unknown."""
    known = list(values)
    return sum(v for v in known if v is not None) if known and None not in known else None
