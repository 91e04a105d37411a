"""`python -m tests.bench`: runs the chosen rows, prints a table and leaves the figures in a file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench import (
    claim,
    covers,
    create,
    death,
    drain,
    fair,
    fetch,
    lists,
    memory,
    peers,
    pickup,
    purge,
    rules,
    snapshot,
    streams,
    uploads,
)
from tests.bench.figures import Figure
from tests.bench.place import Bench, BenchError, Skipped, private_postgres

ROWS: dict[str, Callable[[Bench], list[Figure]]] = {
    "drain": drain.run,
    "claim": claim.run,
    "snapshot": snapshot.run,
    "pickup": pickup.run,
    "create": create.single,
    "batch": create.batch,
    "fetch": fetch.run,
    "memory": memory.run,
    "death": death.run,
    "fair": fair.run,
    "purge": purge.run,
    "lists": lists.run,
    "streams": streams.run,
    "uploads": uploads.run,
    "covers": covers.run,
    "rules": rules.run,
    "peers": peers.run,
}


def main() -> None:
    """Run, print, save. A row that fails is told and the others go on; the exit code is 1 then."""
    chosen = _arguments()
    console = Console()
    report: dict[str, Any] = {
        "startedAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.release()},
        "quick": chosen.quick,
        "rows": {},
    }
    with tempfile.TemporaryDirectory(prefix="asynch-bench-", dir=chosen.dir) as name:
        home = Path(name)
        with private_postgres(home) as server:
            bench = Bench(server, home, chosen.quick, chosen.rows)
            for row in chosen.row or ROWS:
                report["rows"][row] = _measured(console, bench, row)
                chosen.out.write_text(json.dumps(report, indent=2) + "\n")
    console.print(_table(report))
    console.print(f"figures in {chosen.out}")
    raise SystemExit(any("failed" in row for row in report["rows"].values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("row", nargs="*", help=f"which rows, default all: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="small numbers: shows that it works, measures little")
    parser.add_argument("--rows", type=int, help="rows of the table that `lists` reads (10,000,000; quick 200,000)")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="where the figures go")
    parser.add_argument("--dir", type=Path, help="where Postgres and all files live meanwhile")
    chosen = parser.parse_args()
    if unknown := set(chosen.row) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    chosen.rows = chosen.rows or (200_000 if chosen.quick else 10_000_000)
    return chosen


def _measured(console: Console, bench: Bench, row: str) -> dict[str, Any]:
    began = monotonic()
    console.print(f"[bold]{row}[/bold] …")
    try:
        figures = ROWS[row](bench)
    except Skipped as exc:
        console.print(f"  skipped: {exc}")
        return {"skipped": str(exc)}
    except Exception as exc:
        console.print(f"  failed: {exc}", markup=False)
        return {"failed": str(exc) if isinstance(exc, BenchError) else traceback.format_exc()}
    for figure in figures:
        console.print(f"  {figure.name}: {figure.value:.3g} {figure.unit}", markup=False)
    return {"seconds": round(monotonic() - began, 1), "figures": [_told(figure) for figure in figures]}


def _told(figure: Figure) -> dict[str, Any]:
    return {**asdict(figure), "reached": figure.reached}


def _table(report: dict[str, Any]) -> Table:
    table = Table(title="asynch, as ratios of one run" + (" (quick)" if report["quick"] else ""))
    for heading in ("row", "what", "measured", "target", ""):
        table.add_column(heading)
    for row, outcome in report["rows"].items():
        for cells in _lines(outcome):
            table.add_row(row, *cells)
    return table


def _lines(outcome: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    if "figures" not in outcome:
        return [("skipped" if "skipped" in outcome else "failed", "", "", "")]
    return [_cells(told) for told in outcome["figures"]]


def _cells(told: dict[str, Any]) -> tuple[str, ...]:
    target = "" if told["target"] is None else f"{'≤' if told['at_most'] else '≥'} {told['target']:g}"
    verdict = {True: "reached", False: "missed", None: ""}[told["reached"]]
    return told["name"], f"{told['value']:.3g} {told['unit']}", target, verdict


if __name__ == "__main__":
    main()
