"""The promises of deploy/ from the bare machine to the first task; each step's first line is one."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

from ground import (
    API,
    CERT,
    CONFIG,
    NAME,
    SECOND,
    WORKER,
    completed,
    configure,
    connected,
    http,
    install,
    kept,
    make_key,
    pid,
    probing,
    register_models,
    said,
    serve_by_nginx,
    sh,
    show,
    speech,
    start_models,
    until,
)


def installs() -> str:
    """install.sh on the bare machine: everything runs when it returns"""
    began = time.monotonic()
    install("0.1.0", "--workers 2", f"--public-url https://{NAME}")
    took = time.monotonic() - began
    for unit in (API, WORKER, SECOND):
        assert show(unit, "ActiveState") == "active", unit
    assert urllib.request.urlopen("http://127.0.0.1:8080/readyz", timeout=5).status == 200
    assert sh(f"stat -c '%U:%G %a' {CONFIG} /var/lib/asynch") == "root:asynch 640\nasynch:asynch 700"
    return f"{took:.0f} s, ready at once"


def installs_again() -> str:
    """install.sh with the same wheel changes nothing but restarts"""
    before = CONFIG.read_text(), sh("readlink /opt/asynch")
    install("0.1.0", "--workers 2")
    assert (CONFIG.read_text(), sh("readlink /opt/asynch")) == before
    return "configuration and release unchanged"


def verifies() -> str:
    """systemd-analyze has nothing to say"""
    assert sh(f"systemd-analyze verify /etc/systemd/system/{API} /etc/systemd/system/{WORKER} 2>&1") == ""
    scores = {unit: sh(f"systemd-analyze security --no-pager {unit} | tail -1") for unit in (API, WORKER)}
    return "; ".join(re.sub(r"[^ -~]+", "", score).strip() for score in scores.values())


def is_confined() -> str:
    """the processes run as asynch, without privileges, on a read-only system"""
    for unit in (API, WORKER):
        facts = dict(re.findall(r"(?m)^(\w+):\s+(\S+)", Path(f"/proc/{pid(unit)}/status").read_text()))
        assert [facts[name] for name in ("Uid", "NoNewPrivs", "Seccomp")] == [sh("id -u asynch"), "1", "2"]
        assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0, facts
        for path, writable in {"/usr": "ro", "/etc": "ro", "/opt": "ro", "/var/lib/asynch": "rw"}.items():
            options = sh(f"nsenter -t {pid(unit)} -m findmnt -n -o VFS-OPTIONS -T {path}")
            assert options.startswith(writable), f"{unit} {path} {options}"
    return "uid asynch, NoNewPrivs 1, Seccomp 2, no capability, / read-only"


def is_behind_nginx() -> str:
    """nginx.conf as shipped answers over TLS, and hides /metrics"""
    CERT.parent.mkdir()
    with open("/etc/hosts", "a") as hosts:
        hosts.write(f"127.0.0.1 {NAME}\n")
    sh(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME}"
        f" -keyout {CERT.parent}/privkey.pem -out {CERT}"
    )
    serve_by_nginx()
    assert http("/metrics")[0] == 404
    assert http("/model/listModel", {})[0] == 401
    return "readyz 200, without a key 401"


def nginx_holds_nothing_back() -> str:
    """uploads and events go through nginx as they come, and a WebSocket is switched"""
    sh(f"systemctl stop {API}")
    try:
        with probing() as probe:
            for way in (b"POST /api/file/upload", b"PATCH /api/file/tus/1", b"PUT /files/7/direct/1"):
                with connected() as line:
                    line.sendall(b"%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nnow %b" % (way, 10 << 30, way))
                    until(lambda way=way: b"now " + way in probe.heard, 10, "the first bytes of an upload that goes on")
            with connected() as line:
                line.sendall(b"GET /task/1/events HTTP/1.1\r\nHost: x\r\n\r\n")
                assert said(line, b"data: 1")  # while the answer goes on
            with connected() as line:
                line.sendall(b"GET /task/1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                assert said(line, b"101 Switching")
                line.sendall(b"a frame")
                until(lambda: b"a frame" in probe.heard, 10, "what follows the switch")
    finally:
        sh(f"systemctl start {API}")
    return "the first bytes arrive while the rest is still to come"


def loopback_is_denied() -> str:
    """tenants cannot register what listens on the host only"""
    make_key()
    code, answer = http("/model/createModel", {"modelName": "self", "baseUrl": "http://127.0.0.1:8080"})
    assert code == 422, (code, answer)
    configure("127.0.0.0/8, ", "")  # from here on the models are on this host, as an operator may want it
    return "422, until egress.deny is changed"


def takes_a_task_through() -> str:
    """a key, a model, a task, its result through nginx"""
    start_models()
    register_models()
    [item] = completed(speech(1))
    code, sound = http(item["ossFile"])
    assert item["ossFile"].startswith(f"https://{NAME}/")
    assert (code, sound[:4]) == (200, b"RIFF")
    kept["result"] = item["taskId"], sound
    return f"{len(sound)} bytes of WAV"
