"""Takes the steps of one boot, as root inside the machine, and writes down how they went; run.py starts it."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable

import care
import deaths
import films
import first_steps as first
from ground import OUT, sh

#: Each stands on the ones before.
STEPS: dict[str, list[Callable[[], str]]] = {
    "install": [
        first.installs,
        first.installs_again,
        first.verifies,
        first.is_confined,
        first.is_behind_nginx,
        first.nginx_holds_nothing_back,
        first.loopback_is_denied,
        first.takes_a_task_through,
        deaths.worker_is_killed,
        deaths.api_is_killed,
        deaths.frozen_worker_is_replaced,
        deaths.stop_drains,
        deaths.stop_takes_the_drain_it_needs,
        deaths.stop_gives_back,
        deaths.waits_for_the_database,
        deaths.database_restarts,
        films.takes_films,
        films.media_is_shut_in,
        films.media_programs_run_so,
        films.worker_is_killed_while_it_compresses,
        care.upgrades,
        care.backs_up_and_restores,
        films.large_files_pass_through,
        care.powers_off_in_flight,
    ],
    "reboot": [care.is_up_after_the_boot, care.uninstalls, care.upgrades_from_the_former_schema],
}


def take(step: Callable[[], str]) -> dict[str, object]:
    """Do one step and say how it went; after a failure the last lines of the units' logs too."""
    began = time.monotonic()
    try:
        good, detail = True, step()
    except Exception as exc:  # the next step may be ok all the same
        line = traceback.extract_tb(exc.__traceback__)[1].line
        logs = sh("journalctl -q --no-pager -n 30 -o short-precise -u 'asynch-*'", ok=False)
        good, detail = False, f"{line}: {exc!r}\n{logs}"
    took = round(time.monotonic() - began, 1)
    print(f"{'ok  ' if good else 'FAIL'}  {took:5.1f} s  {step.__doc__}: {detail}", flush=True)
    return {"step": step.__name__, "ok": good, "seconds": took, "detail": detail.partition("\n")[0]}


def main() -> None:
    boot = (OUT / "boot").read_text()
    results: list[dict[str, object]] = []
    for step in STEPS[boot]:
        results.append(take(step))
        (OUT / f"result-{boot}.json").write_text(json.dumps(results))
        if not results[0]["ok"]:  # all others stand on the first
            break


if __name__ == "__main__":
    main()
