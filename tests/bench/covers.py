"""Covers a second, by one worker and by three on hosts of their own, beside ffmpeg cutting the same frames alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

from asynch import db
from asynch.media.ffmpeg import find_ffmpeg
from asynch.service.lanes import ensure_lane, processor_lane
from asynch.store import files
from asynch.store.files import NewWork
from tests.bench.figures import Figure, compared
from tests.bench.place import Bench, BenchError, Site, Skipped, until

_FRAME = ["-v", "error", "-nostdin", "-y", "-ss", "1", "-i"]
_COVER = ["-vf", "scale=640:360,thumbnail=50", "-frames:v", "1"]


def run(bench: Bench) -> list[Figure]:
    """Seconds for all covers / seconds of as many ffmpeg runs, as many at once as there are cores."""
    program = find_ffmpeg()
    if program is None:
        raise Skipped("no ffmpeg")
    count = bench.scaled(30, 8)
    with bench.site() as site:
        film = _film(program, site.home)
        pairs = [(_by_workers(site, film, count, 1), _alone(program, film, count)) for _ in range(2)]
        figures = [compared(f"{count} covers / ffmpeg alone", pairs, target=2.5, at_most=True)]
        if (os.cpu_count() or 1) >= 3:
            several = [(_by_workers(site, film, count, 3), _by_workers(site, film, count, 1, media=1))]
            figures.append(compared(f"{count} covers, three workers / one", several, target=0.45, at_most=True))
        return figures


def _film(program: Path, home: Path) -> Path:
    path = home / "film.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=s=1280x720:d=10:r=25", "-c:v", "libx264", "-preset", "veryfast"]
    subprocess.run([program, "-v", "error", *source, "-pix_fmt", "yuv420p", path], check=True)
    return path


def _alone(program: Path, film: Path, count: int) -> float:
    def cut(n: int) -> None:
        subprocess.run([program, *_FRAME, film, *_COVER, film.with_name(f"alone-{n}.jpg")], check=True)

    began = monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as cores:
        list(cores.map(cut, range(count)))
    return monotonic() - began


def _by_workers(site: Site, film: Path, count: int, workers: int, media: int = 0) -> float:
    with ExitStack() as stack:
        for n in range(workers):
            stack.enter_context(_worker(site, n, media or (1 if workers > 1 else 0)))
        began = monotonic()
        _order(site, film, count)
        until(lambda: site.count("NOT final") == 0, 600, what="the covers")
        took = monotonic() - began
    (row,) = site.ask("SELECT count(*) AS n FROM asynch_file WHERE cover_key <> ''")
    if row["n"] != count:
        raise BenchError(f"{row['n']} of {count} films have a cover")
    site.clear()
    with db.connection(site.pool) as conn:
        conn.execute("TRUNCATE asynch_file")
    return took


@contextmanager
def _worker(site: Site, n: int, media: int) -> Iterator[None]:
    with site.worker(sections={"media": {"processes": media}}, tmp_dir=str(site.home / f"tmp-{n}")):
        yield


def _order(site: Site, film: Path, count: int) -> None:
    """So many stored films, each with the task of its cover."""
    (site.files / "7").mkdir(parents=True, exist_ok=True)
    shutil.copy(film, site.files / "7" / "film.mp4")
    with db.transaction(site.pool) as conn:
        lane_id = ensure_lane(conn, tenant_id=7, lane=processor_lane("video.cover"))
        for n in range(count):
            conn.execute(
                "INSERT INTO asynch_file (id, tenant_id, sha256, size, stored_size, key) VALUES (%s, 7, %s, 1, 1, 'x')",
                (n + 1, str(n)),
            )
            files.insert_work(conn, NewWork(lane_id, "store:7/film.mp4", "{}", parent_id=n + 1))
