"""The promises of upgrade, backup, reboot and removal; each step's first line is one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

from films import film
from ground import (
    API,
    CERT,
    CONFIG,
    NAME,
    OUT,
    SECOND,
    WORKER,
    argv,
    call,
    calls,
    completed,
    configure,
    create,
    gap_while,
    http,
    install,
    kept,
    make_key,
    register_models,
    serve_by_nginx,
    sh,
    show,
    slow,
    speech,
    start_models,
    start_speech,
    until,
)
from sending import Tus, by_form, fetched, stored


def upgrades() -> str:
    """install.sh with a newer wheel while tasks are created and run, and a film comes: every id completes"""
    upload = Tus(film("three", 3))
    upload.send(cut_after=1)
    said = _upgrade(lambda: install("0.9.9", "--workers 2", "--extras broker,tracing"))
    assert upload.go_on() > 0
    stored(upload.task, cover=True)
    assert all(argv(unit).startswith("/opt/asynch-0.9.9-") for unit in (API, WORKER, SECOND))
    sh("/opt/asynch/bin/python -c 'import kombu, opentelemetry.sdk'")
    releases = sh("ls -d /opt/asynch-*").split()
    assert len(releases) == 2, releases
    return f"{said}, former release kept"


def _upgrade(install_it: Callable[[], object]) -> str:
    """Create and run tasks all the while."""
    made: list[str] = []
    stop = threading.Event()

    def keep_creating() -> None:
        while not stop.is_set():
            made.append(create("speech", {"text": f"Upgrade {len(made)}.", "voice": "en"}, key=f"upgrade-{len(made)}"))
            stop.wait(0.15)

    creator = threading.Thread(target=keep_creating)
    held = [slow(6.0)]
    creator.start()
    try:
        away = gap_while(install_it)
    finally:
        stop.set()
        creator.join()
    items = completed(held, 60) + [item for n in range(0, len(made), 500) for item in completed(made[n : n + 500], 300)]
    assert len(set(made)) == len(made) > 20
    assert calls[held[0]] == 1
    return f"{len(items)} tasks completed, the 6 s call ran once, API away for {away:.1f} s"


def backs_up_and_restores() -> str:
    """backup.sh while tasks run; database, files and configuration destroyed; restore.sh: results and secrets are back"""
    running = slow(3.0)
    backup = sh("/proof/deploy/backup.sh /var/backups")
    completed([running])
    later = speech(1)[0]
    completed([later])
    sh("systemctl stop asynch-api 'asynch-worker@*' && runuser -u postgres -- dropdb asynch")
    sh(f"rm -r /var/lib/asynch/files {CONFIG}")
    sh(f"/proof/deploy/restore.sh {backup}")
    task, sound = kept["result"]
    [item] = completed([task])
    assert http(item["ossFile"]) == (200, sound)
    assert http(f"/task/{later}")[0] == 404
    identity, content, cover = kept["film"]
    found = call(f"/api/file/{identity}")
    assert (fetched(found["url"]), fetched(found["cover_url"])) == (content, cover)
    completed([running, *speech(2)])  # the call runs again; the model's credential can still be read
    assert calls[running] == 2
    return f"{sh(f'du -sh {backup}').split()[0]}; the same bytes, a task of after the backup is 404"


def powers_off_in_flight() -> str:
    """poweroff with tasks in flight: next boot"""
    (OUT / "kept").write_text(json.dumps({"token": kept["token"], "tasks": speech(24)}))
    return "24 tasks"


def is_up_after_the_boot() -> str:
    """after a reboot everything runs by itself and finishes what was in flight"""
    kept.update(json.loads((OUT / "kept").read_text()))
    start_models()
    until(lambda: all(show(u, "ActiveState") == "active" for u in (API, WORKER, SECOND)), 60, "all units are active")
    # the model went down with the machine, and says so to its last callers
    return f"{len(completed(kept['tasks'], retried=True))} tasks completed"


def uninstalls() -> str:
    """the README's steps leave nothing behind"""
    sh("systemctl stop model; systemctl disable --now asynch-api asynch-worker@1 asynch-worker@2")
    assert sh("pgrep -u asynch", ok=False) == ""
    sh("runuser -u postgres -- dropdb asynch && runuser -u postgres -- dropuser asynch")
    sh(
        "rm -r /opt/asynch /opt/asynch-* /usr/local/bin/asynch /etc/systemd/system/asynch-*"
        " /usr/lib/sysusers.d/asynch.conf /usr/lib/tmpfiles.d/asynch.conf /etc/asynch /var/lib/asynch"
        " /etc/nginx/sites-*/asynch && userdel asynch && systemctl daemon-reload"
    )
    left = sh("find / -xdev -name '*asynch*' -not -path '/proof*' -not -path '/var/backups/*' -not -name 'asynchat*'")
    assert set(left.split()) <= {str(CERT.parent)}, left
    return "no process, file, role or user"


def upgrades_from_the_former_schema() -> str:
    """a machine with the last version of the schema before this one, upgraded while tasks are created and run"""
    install("0.0.9", "--workers 2", f"--public-url https://{NAME}", deploy="/proof/former")
    configure("127.0.0.0/8, ", "")
    serve_by_nginx()
    make_key()
    start_speech()
    register_models()
    before, former = completed(speech(2)), _schema()
    said = _upgrade(lambda: install("0.1.0", "--workers 2"))
    assert all(argv(unit).startswith("/opt/asynch-0.1.0-") for unit in (API, WORKER, SECOND))
    assert _schema() == former + 1
    assert fetched(completed([before[0]["taskId"]])[0]["ossFile"])[:4] == b"RIFF"
    stored(by_form(film("four", 3)), cover=True)
    return f"schema {former} to {former + 1}: {said}, then a film"


def _schema() -> int:
    asked = "SELECT value FROM asynch_meta WHERE key = 'schema_version'"
    return int(sh(f'runuser -u postgres -- psql -qAt asynch -c "{asked}"'))
