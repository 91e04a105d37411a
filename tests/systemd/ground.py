"""The machine as root sees it, its models, and a client that comes through nginx; knows no step."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OUT = Path("/proof/out")
CONFIG = Path("/etc/asynch/config.yml")
NAME = "asynch.test"
CERT = Path("/etc/ssl/asynch/fullchain.pem")
API, WORKER, SECOND = "asynch-api.service", "asynch-worker@1.service", "asynch-worker@2.service"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/proof/wheels"}

calls: Counter[str] = Counter()  #: of the slow model, by task
kept: dict[str, Any] = {}  #: what one step leaves to the next


def sh(command: str, *, ok: bool = True, env: dict[str, str] | None = None) -> str:
    """Standard output of a shell command; AssertionError with what it said when it fails."""
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    assert not ok or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout.strip()


def show(unit: str, name: str) -> str:
    return sh(f"systemctl show -P {name} {unit}")


def pid(unit: str) -> int:
    return int(show(unit, "MainPID"))


def install(version: str, *options: str, deploy: str = "/proof/deploy") -> str:
    return sh(f"{deploy}/install.sh {' '.join(options)} /proof/wheels/asynch-{version}-*.whl", env=OFFLINE)


def drop_in(unit: str, lines: str) -> None:
    """Settings of the unit until `lines` is empty."""
    folder = Path(f"/etc/systemd/system/{unit}.d")
    folder.mkdir(exist_ok=True)
    (folder / "proof.conf").write_text(f"[Service]\n{lines}\n")
    sh(f"systemctl daemon-reload && systemctl restart {unit}")


def timed(command: str) -> float:
    began = time.monotonic()
    sh(command)
    return time.monotonic() - began


def argv(unit: str) -> str:
    return Path(f"/proc/{pid(unit)}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def until(true: Callable[[], Any], seconds: float, what: str) -> float:
    """Wait until it is true; how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def configure(old: str, new: str) -> None:
    text = CONFIG.read_text()
    assert old in text
    CONFIG.write_text(text.replace(old, new))
    sh("systemctl restart asynch-api 'asynch-worker@*'")


def http(path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """Status and body, 0 where nobody listens; `path` may be a whole URL."""
    url = path if path.startswith("https:") else f"https://{NAME}{path}"
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", "Authorization": f"Bearer {kept.get('token', '')}", **headers}
    request = urllib.request.Request(url, data, sent)
    try:
        with urllib.request.urlopen(request, timeout=60, context=ssl.create_default_context(cafile=CERT)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()
    except OSError:
        return 0, b""


def call(path: str, body: Any = None, **headers: str) -> Any:
    """The JSON of a 2xx, however long the API is away meanwhile."""
    deadline = time.monotonic() + 60
    while True:
        status, answer = http(path, body, **headers)
        if 200 <= status < 300:
            return json.loads(answer)
        assert status in (0, 409, 502, 503, 504), f"{path}: {status} {answer[:500]!r}"
        assert time.monotonic() < deadline, f"{path}: still {status}"
        time.sleep(0.2)


def serve_by_nginx() -> None:
    """The site as shipped, and whoever asks for its name."""
    sh(f"sed s/asynch.example.com/{NAME}/ /proof/deploy/nginx.conf > /etc/nginx/sites-available/asynch")
    sh("ln -s ../sites-available/asynch /etc/nginx/sites-enabled/ && nginx -t && systemctl reload nginx")
    until(lambda: http("/readyz")[0] == 200, 10, "readyz through nginx")


def make_key() -> None:
    made = sh("runuser -u asynch -- asynch key create --config /etc/asynch/config.yml --tenant 7 --name proof --admin")
    kept["token"] = made.split()[-1]


def register_models() -> None:
    known = {"apiKey": "X-Api-Key:demo-model-key", "maxConcurrency": 4, "timeoutSeconds": 120, "retryTimes": 3}
    call("/model/createModel", {"modelName": "speech", "baseUrl": "http://127.0.0.1:9100", "route": "speak", **known})
    call("/model/createModel", {"modelName": "slow", "baseUrl": "http://127.0.0.1:9200", **known})


def create(model: str, payload: Any, key: str = "") -> str:
    headers = {"Idempotency-Key": key} if key else {}
    return str(call("/task/createTask", {"modelName": model, "requestPayload": payload}, **headers)["taskId"])


def slow(seconds: float) -> str:
    """A task of the slow model whose call has begun."""
    task = create("slow", {"seconds": seconds})
    until(lambda: calls[task], 15, "the call begins")
    return task


def speech(number: int) -> list[str]:
    return [
        create("speech", {"text": f"Sentence {n} of {number}, spoken in a machine.", "voice": "en"})
        for n in range(number)
    ]


def status(task: str) -> Any:
    return call(f"/task/{task}")


def completed(tasks: list[str], seconds: float = 90, *, retried: bool = False) -> list[Any]:
    """The items of all tasks, which must be completed in time, without a retry unless `retried`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = call("/task/getTaskBatch", {"taskIds": tasks, "waitSeconds": 10})
        assert (len(answer["list"]), answer["missing"], answer["gone"]) == (len(tasks), [], [])
        if all(item["final"] for item in answer["list"]):
            wrong = [i for i in answer["list"] if i["status"] != "completed" or (i["retryCount"] and not retried)]
            assert not wrong, wrong[:3]
            return list(answer["list"])
        assert time.monotonic() < deadline, Counter(item["status"] for item in answer["list"])


class Slow(BaseHTTPRequestHandler):
    """A model that takes as long as it is told and counts its calls."""

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        calls[self.headers["X-Asynch-Task-Id"]] += 1
        time.sleep(payload["seconds"])
        with suppress(ConnectionError):  # a caller that was killed
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    def log_message(self, *args: Any) -> None:
        """Nothing."""


def start_speech() -> None:
    """The demo's model, as its own process."""
    sh("systemd-run --quiet --unit=model /opt/asynch/bin/python -m asynch.demo.model --port 9100")
    until(lambda: sh("ss -Hltn 'sport = :9100'"), 30, "the demo's model")


def start_models() -> None:
    """The demo's and the slow one."""
    start_speech()
    threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", 9200), Slow).serve_forever, daemon=True).start()


def gap_while(action: Callable[[], object]) -> float:
    """The longest time without a 200 of /readyz through nginx while `action` runs."""
    over = threading.Event()
    longest = 0.0

    def look() -> None:
        nonlocal longest
        since = time.monotonic()
        last = False
        while not last:
            last = over.wait(0.1)  # looks once more after the end
            if http("/readyz")[0] == 200:
                longest, since = max(longest, time.monotonic() - since), time.monotonic()

    looker = threading.Thread(target=look)
    looker.start()
    try:
        action()
    finally:
        over.set()
        looker.join()
    return longest


class Probe(socketserver.ThreadingTCPServer):
    """In the place of the API: remembers what it hears, begins an answer and never ends it."""

    allow_reuse_address = True
    daemon_threads = True
    heard = b""


class ProbeHandler(socketserver.BaseRequestHandler):
    """One connection of nginx's."""

    server: Probe

    def handle(self) -> None:
        with suppress(ConnectionError):
            while got := self.request.recv(65536):
                self.server.heard += got
                if got.startswith(b"GET /task/1/events"):
                    self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                elif b"websocket" in got:
                    self.request.sendall(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")


@contextmanager
def probing() -> Iterator[Probe]:
    with Probe(("127.0.0.1", 8080), ProbeHandler) as probe:
        threading.Thread(target=probe.serve_forever, daemon=True).start()
        yield probe
        probe.shutdown()


def connected() -> ssl.SSLSocket:
    """A connection to nginx."""
    context = ssl.create_default_context(cafile=CERT)
    return context.wrap_socket(socket.create_connection((NAME, 443), timeout=10), server_hostname=NAME)


def said(line: ssl.SSLSocket, text: bytes) -> bool:
    """Whether this comes; TimeoutError when it does not."""
    got = b""
    while text not in got:
        got += (more := line.recv(65536))
        if not more:
            return False
    return True
