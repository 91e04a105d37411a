"""Secrets that operators and users give, planted everywhere, and looked for in everything that comes out."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import quote, quote_plus

import jwt
import requests
import yaml
from cryptography.fernet import Fernet
from psycopg.conninfo import make_conninfo

from asynch import db
from asynch.domain import callbacks
from asynch.service import keys
from tests.database import run_on
from tests.leaks import dump, shapes_of
from tests.model_server import ModelServer
from tests.programs import REPOSITORY, clean_environ
from tests.routes import ROUTES, Things
from tests.upload_service import Mood, UploadService
from tests.waiting import until

TENANT = 7
#: each with characters that a URL escapes; none is part of another
PLANTED = {
    name: f"PlAnT/{name}+{uuid.uuid4().hex[:12]}="
    for name in (
        "bound", "bound-badly", "user-info", "gateway", "gateway-guess", "key-guess", "minio-access", "minio-secret",
        "storage-header", "broker", "dsn", "payload", "jwt-shared-secret-of-32-bytes",
    )
}  # fmt: skip
FERNET = Fernet.generate_key().decode()


def forms(secret: str) -> set[str]:
    """A secret as itself, inside of base64 wherever it begins, and as URLs and JSON write it."""
    urls = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    return shapes_of(secret) | urls | {json.dumps(secret)[1:-1], secret.replace("/", "\\/")}


def found_in(text: str, secrets: dict[str, str]) -> dict[str, str]:
    """What is in a text, and where. A part of a secret would be found in anything that is long enough."""
    assert [name for name, secret in secrets.items() if len(secret) < 20] == []
    places = {name: text.index(form) for name, secret in secrets.items() for form in forms(secret) if form in text}
    return {name: text[max(0, at - 200) : at + 200] for name, at in places.items()}


def config(dsn: str, home: Path, uploads: UploadService, model: str, mode: str) -> dict[str, Any]:
    """Every secret that a configuration can hold, used or not."""
    service = {"upload_url": f"{uploads.url}/upload", "headers": {"X-Store-Key": PLANTED["storage-header"]}}
    return {
        "data_dir": str(home),
        "database": {"dsn": dsn},
        "server": {"port": 1, "trusted_proxies": ["127.0.0.1"]},
        "worker": {"threads": 2, "uploaders": 2, "poll_interval": "200ms", "drain_timeout": 0},
        "auth": {
            "mode": mode,
            "gateway": {"secret": PLANTED["gateway"]},
            "jwt": {"issuer": "i", "audience": "a", "key": PLANTED["jwt-shared-secret-of-32-bytes"]},
        },
        "storage": {
            "backend": "http",
            "http": service,
            "minio": {"access_key": PLANTED["minio-access"], "secret_key": PLANTED["minio-secret"]},
        },
        "secrets": {"keys": [FERNET]},
        "broker": {"url": f"amqp://u:{quote(PLANTED['broker'], safe='')}@127.0.0.1:1/"},
        "log": {"level": "DEBUG"},
    }


class Process:
    """A command with a configuration, and all that it says."""

    def __init__(self, home: Path, told: dict[str, Any], *argv: str, fd: int | None = None) -> None:
        name = f"{'-'.join(argv)}-{told['auth']['mode']}"
        file = home / f"{name}.yml"
        file.write_text(yaml.safe_dump(told))
        self.log = home / f"{name}.log"
        more = ["--fd", str(fd)] if fd is not None else []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "asynch", *argv, "--config", str(file), *more],
                pass_fds=[fd] if fd is not None else [], stdout=log, stderr=log, cwd=REPOSITORY, env=clean_environ(),
            )  # fmt: skip

    def end(self) -> str:
        """Stop it; what it said."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.log.read_text()


@contextmanager
def planted_role(server_dsn: str, dsn: str) -> Iterator[str]:
    """A DSN of this database with a planted password."""
    role = f"planted_{uuid.uuid4().hex[:8]}"
    run_on(server_dsn, f"CREATE ROLE {{}} LOGIN SUPERUSER PASSWORD '{PLANTED['dsn']}'", role)
    yield make_conninfo(dsn, user=role, password=PLANTED["dsn"])
    run_on(server_dsn, "DROP ROLE {}", role)


class Walk:
    """All answers of an API, as text with their headers."""

    def __init__(self, url: str, **headers: str) -> None:
        self.url = url
        self.headers = headers
        self.said: list[str] = []
        self.told: list[str] = []  #: secrets that are told to who asks for them
        self.session = requests.Session()
        self.session.trust_env = False

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        answer = self.session.request(
            method,
            self.url + path,
            data=data,
            headers=self.headers | kind | headers,
            timeout=30,
            allow_redirects=False,
            stream=True,
        )
        if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
            text = next(line for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data")).decode()
            answer.close()
        else:
            text = answer.text
        if path == "/webhook/rotateSecret":  # told once, there
            self.told.append(answer.json()["secret"].removeprefix(callbacks.PREFIX))
            text = ""
        self.said.append(f"{path} {answer.status_code} {dict(answer.headers)} {text!r}")
        return answer

    def create(self, name: str, **fields: Any) -> str:
        answer = self.call("POST", "/task/createTask", {"modelName": name, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["taskId"])

    def all_routes(self) -> None:
        """Every route with things of its own, then with bodies that cannot be read and secrets where none belongs."""
        name = f"w{uuid.uuid4().hex[:8]}"
        secret, badly = PLANTED["bound"], PLANTED["bound-badly"]
        spec = {"modelName": name, "baseUrl": "http://127.0.0.1:9", "apiKey": f'Authorization:"Bearer {secret}"'}
        model = self.call("POST", "/model/createModel", spec).json()["id"]
        task = self.create(name)
        things = Things(model, name, task, name + "n", "1")
        for route, row in ROUTES.items():
            if "deleteModel" not in route and "testModel" not in route:
                self.call(route.split()[0], *row.request(things))
        for broken in (f"X-No-Separator {badly}", f"X:{badly}\r\nY:z", f"Host:{badly}", f":{badly}", f'A:"{badly}'):
            self.call("PUT", "/model/updateModel", {"id": model, "apiKey": broken})
            self.call("POST", "/model/createModel", spec | {"modelName": name + "x", "apiKey": broken})
        self.call("POST", "/model/createModel", spec)  # taken
        self.call("PUT", "/model/updateModel", {"id": model, "apiKey": ["X", badly]})
        self.call("PUT", "/model/updateModel", {"id": model, "apiKey": f"X-Key={secret}, X-More:{secret}"})
        self.call("POST", "/model/createModel", f'{{"apiKey":"{badly}"'.encode())
        self.call("GET", f"/model/getModel?modelName={name}")
        self.call("POST", "/task/createTask", {"modelName": "none", "requestPayload": {"password": PLANTED["payload"]}})
        self.call("DELETE", f"/model/deleteModel?id={model}&force=true")


def user_info(**more: Any) -> str:
    info = {"tenantId": TENANT, "userName": "eva", "role": "admin", "session": PLANTED["user-info"], **more}
    return base64.b64encode(json.dumps(info).encode()).decode()


def token() -> str:
    claims = {"iss": "i", "aud": "a", "exp": int(time()) + 600, "tenantId": TENANT, "sub": "eva", "role": "admin"}
    return jwt.encode(claims, PLANTED["jwt-shared-secret-of-32-bytes"], "HS256")


def test_the_search_would_find_a_secret() -> None:
    for shape in (
        lambda s: s, lambda s: quote(s, safe=""), lambda s: base64.b64encode(f"{{ {s}".encode()).decode(),
        lambda s: base64.urlsafe_b64encode(f"{{{s}".encode()).decode(), lambda s: json.dumps({"a": s}),
    ):  # fmt: skip
        for name, secret in PLANTED.items():
            assert found_in(f"x{shape(secret)}x", PLANTED).keys() == {name}


def test_no_secret_comes_out_anywhere(
    server_dsn: str, dsn: str, pool: db.Pool, tmp_path: Path, uploads: UploadService
) -> None:
    with db.transaction(pool) as conn:
        conn.execute("DELETE FROM asynch_meta WHERE key = 'secret_canary'")
    key_id, key = keys.create_key(pool, TENANT, "walker", admin=True)
    bearer = token()
    secrets = PLANTED | {
        "api-key": key.removeprefix(f"ak_{key_id}_"),
        "jwt": bearer.rpartition(".")[2],
        "fernet": FERNET,
    }
    uploads.allows = lambda seen: True
    uploads.moods.extend([Mood(500, body=b"refused"), Mood(401)])
    callers = {
        "apikey": {"Authorization": f"Bearer {key}", "X-User-Info": user_info()},
        "gateway": {"X-User-Info": user_info(), "X-Gateway-Secret": PLANTED["gateway"]},
        "jwt": {"Authorization": f"Bearer {bearer}", "X-User-Info": user_info()},
    }
    with ExitStack() as stack:
        planted_dsn = stack.enter_context(planted_role(server_dsn, dsn))
        model = stack.enter_context(ModelServer())
        running, walks = [], []
        for mode, headers in callers.items():
            told = config(planted_dsn, tmp_path, uploads, model.url, mode)
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            running.append(Process(tmp_path, told, "api", fd=listener.fileno()))
            stack.callback(running[-1].end)
            walks.append(Walk(f"http://127.0.0.1:{listener.getsockname()[1]}", **headers))
        running.append(Process(tmp_path, told, "worker"))
        stack.callback(running[-1].end)
        for walk in walks:
            until(lambda walk=walk: walk.call("GET", "/healthz").ok, 60)  # type: ignore[misc]
            walk.all_routes()
            tasks = failing_paths(walk, model)
            until(lambda walk=walk, tasks=tasks: ended(walk, tasks), 60)  # type: ignore[misc]
            strangers(walk, key_id)
        stored = dump(pool)
        said = "\n".join(process.end() for process in running)
        said += checked(tmp_path, config(planted_dsn, tmp_path, uploads, model.url, "jwt"), stack)

    secrets |= {f"webhook-{n}": told for n, told in enumerate(t for walk in walks for t in walk.told)}
    assert "webhook-2" in secrets
    answered = "\n".join(line for walk in walks for line in walk.said)
    assert answered.count(" 401 ") >= 9
    assert answered.count("model_http_error") >= 3
    assert "urllib3" in said or "DEBUG" in said
    assert found_in(answered, secrets) == {}
    assert found_in(said, secrets) == {}
    # what a user sends as a task is stored as it is; here it was refused, so only the op log could have it
    assert found_in(stored, secrets) == {}
    assert answered.count("X-Key") >= 3, "the model never repeated what it was sent"


def failing_paths(walk: Walk, model: ModelServer) -> list[str]:
    """Tasks whose model is away, repeats what it was sent, or whose result meets a store in a bad mood."""
    tasks = []
    secret = PLANTED["bound"]
    for base, payload in (
        ("http://127.0.0.1:9", {}),
        (model.url, {"echo": "request", "status": 500}),
        (model.url, {"kind": "json"}),
    ):
        name = f"f{uuid.uuid4().hex[:8]}"
        spec = {"modelName": name, "baseUrl": base, "apiKey": f'X-Key:{secret},Authorization:"Bearer {secret}"'}
        assert walk.call("POST", "/model/createModel", spec).status_code == 200
        tasks.append(walk.create(name, requestPayload=payload, callbackUrl=f"{model.url}/hook"))
    return tasks


def ended(walk: Walk, tasks: list[str]) -> bool:
    told = [walk.call("GET", f"/task/{task}").json() for task in tasks]
    walk.call("GET", "/metrics")
    walk.call("POST", "/opLog/listOpLog", {"page": {"pageSize": 1000}})
    walk.call("POST", "/task/getTaskBatch", {"taskIds": tasks})
    # the last one's upload is refused first and comes again after 10 s: it need not end here
    return all(each["final"] for each in told[:2]) and told[2]["phase"] + told[2]["state"] > 0


def strangers(walk: Walk, key_id: str) -> None:
    """Who guesses is refused, and what they tried is nobody's."""
    guess = PLANTED["key-guess"]
    for headers in (
        {"Authorization": f"Bearer ak_{key_id}_{guess}"}, {"Authorization": f"Bearer {guess}", "X-User-Info": guess},
        {"Authorization": f"Bearer {token()[:-3]}.{guess}", "X-Gateway-Secret": PLANTED["gateway-guess"]},
    ):  # fmt: skip
        blank = {"Authorization": "", "X-Gateway-Secret": "", "X-User-Info": ""}
        assert walk.call("POST", "/model/listModel", {}, **(blank | headers)).status_code == 401


def checked(home: Path, told: dict[str, Any], stack: ExitStack) -> str:
    """What `asynch check` says, and starts with a configuration that is wrong beside, or in, a secret."""
    wrong: list[tuple[str, str, Any]] = [
        ("database", "dsn", f"postgresql://u:{PLANTED['dsn']}@127.0.0.1:1/x"),
        ("database", "dsn", f"dbname=x {PLANTED['dsn']}"),
        ("database", "dsn", f"postgresql://u:{quote(PLANTED['dsn'], safe='')}@127.0.0.1:1/x"),
        ("secrets", "keys", [PLANTED["bound"]]),
        ("broker", "url", PLANTED["broker"]),
        ("auth", "gateway", {"secret": PLANTED["gateway"], "secert": PLANTED["gateway"]}),
        ("auth", "jwt", {"key": [PLANTED["jwt-shared-secret-of-32-bytes"]]}),
        ("storage", "http", {"upload_url": "http://x", "headers": {"X-Key": PLANTED["storage-header"] + "\n"}}),
    ]
    runs = [told, *({**told, section: {**told[section], key: value}} for section, key, value in wrong)]
    started = []
    for n, each in enumerate(runs):
        place = home / f"wrong{n}"
        place.mkdir()
        # 3 is a database that is not there: a worker would wait for it
        started.append(Process(place, each, "check" if n in (0, 3) else "worker" if n % 2 else "api"))
        stack.callback(started[-1].end)
    until(lambda: all(each.process.poll() is not None for each in started), 60)
    codes = [each.process.returncode for each in started]
    assert codes[1:] == [2, 2, 1, 2, 2, 2, 2, 2]
    return "".join(each.log.read_text() for each in started)
