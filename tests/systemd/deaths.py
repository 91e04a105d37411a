"""The promises of the units when something ends, is ended or stands still; each step's first line is one."""

from __future__ import annotations

import os
import signal
import time

from ground import (
    API,
    SECOND,
    WORKER,
    calls,
    completed,
    configure,
    drop_in,
    http,
    pid,
    sh,
    show,
    slow,
    speech,
    status,
    timed,
    until,
)


def worker_is_killed() -> str:
    """kill -9 of a worker: systemd starts it again, every task completes"""
    tasks, held = speech(16), [slow(2.0), slow(2.0)]
    killed = [WORKER, SECOND]
    for unit in killed:
        os.kill(pid(unit), signal.SIGKILL)
    until(
        lambda: all(show(unit, "NRestarts") == "1" and show(unit, "ActiveState") == "active" for unit in killed),
        30,
        "restart",
    )
    items = completed(tasks + held)
    again = sum(calls[task] - 1 for task in held)
    assert again >= 1, "no call was cut"
    return f"both workers killed, {len(items)} tasks completed, {again} calls repeated"


def api_is_killed() -> str:
    """kill -9 of the API: back by itself, no half of it left"""
    os.kill(pid(API), signal.SIGKILL)
    away = until(lambda: show(API, "NRestarts") == "1" and http("/readyz")[0] == 200, 30, "the API is back")
    return f"back after {away:.1f} s"


def frozen_worker_is_replaced() -> str:
    """SIGSTOP of a worker: the watchdog ends it (WatchdogSec 6 s here)"""
    sh(f"systemctl stop {SECOND}")
    drop_in(WORKER, "WatchdogSec=6")
    time_stands = pid(WORKER)
    os.kill(time_stands, signal.SIGSTOP)
    took = until(
        lambda: pid(WORKER) not in (0, time_stands) and show(WORKER, "ActiveState") == "active", 60, "replaced"
    )
    completed(speech(1))
    drop_in(WORKER, "")
    return f"after {took:.0f} s"


def stop_drains() -> str:
    """systemctl stop: the running call ends and is kept"""
    task = slow(5.0)
    took = timed(f"systemctl stop {WORKER}")
    assert (status(task)["state"], show(WORKER, "Result")) == (2, "success")
    sh(f"systemctl start {WORKER}")
    completed([task])
    assert calls[task] == 1
    return f"stop took {took:.1f} s, called once"


def stop_takes_the_drain_it_needs() -> str:
    """a drain longer than TimeoutStopSec asks for its time (TimeoutStopSec 2 s here)"""
    drop_in(WORKER, "TimeoutStopSec=2")
    task = slow(7.0)
    took = timed(f"systemctl stop {WORKER}")
    assert (status(task)["state"], calls[task]) == (2, 1)
    drop_in(WORKER, "")
    return f"stop took {took:.1f} s, called once"


def stop_gives_back() -> str:
    """what outlasts the drain goes back untouched and runs again (drain_timeout 2 s here)"""
    configure("data_dir:", "worker: {drain_timeout: 2s}\ndata_dir:")
    sh(f"systemctl stop {SECOND}")
    task = slow(9.0)
    took = timed(f"systemctl stop {WORKER}")
    assert status(task)["state"] == 0
    assert took < 8
    configure("worker: {drain_timeout: 2s}\n", "")
    sh(f"systemctl start {WORKER}")
    completed([task])
    assert calls[task] == 2
    return f"stop took {took:.1f} s, then pending, then completed, no retry used"


def waits_for_the_database() -> str:
    """no database: API and worker are not called ready; when it is back they are, by themselves"""
    sh("systemctl stop postgresql && systemctl stop asynch-api 'asynch-worker@*'")
    sh(f"systemctl start --no-block {API} {WORKER}")
    time.sleep(6)  # long enough for a start that does not wait
    states = [show(unit, "ActiveState") for unit in (API, WORKER)]
    assert states == ["activating"] * 2, states
    sh("systemctl start postgresql")
    took = until(lambda: all(show(u, "ActiveState") == "active" for u in (API, WORKER)), 60, "ready")
    sh(f"systemctl start {SECOND}")
    return f"activating meanwhile, active {took:.1f} s after the database"


def database_restarts() -> str:
    """systemctl restart postgresql with tasks in flight: nothing is lost"""
    tasks, held = speech(12), [slow(2.0)]
    sh("systemctl restart postgresql")
    return f"{len(completed(tasks + held))} tasks completed"
