"""The demo's second story: a film and two pictures are uploaded, each in its way, and fetched with what was made."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn
from rich.table import Table

from asynch.demo import rules
from asynch.demo.door import Door, Refused
from asynch.demo.receiver import Call, receiving
from asynch.media.ffmpeg import find_ffmpeg
from asynch.processes import spawn

TIME_LIMIT_S = 180.0
POLL_S = 0.2
_MAKING_S = 120.0
_LOOK_S = 0.05
_PIECE_BYTES = 1 << 20
_MOST_CONFLICTS = 3
_QUIET = ("-nostdin", "-v", "error", "-y")
_ZOOM = ("-f", "lavfi", "-i", "mandelbrot=size=854x480:rate=25:maxiter=300:end_scale=0.02:end_pts=150")
_TONE = ("-f", "lavfi", "-i", "sine=frequency=220:duration=6")
#: Out of the dark, so that the cover must be another than the first frame; far larger than it need be.
_FILM = (
    *_ZOOM, *_TONE, "-t", "6", "-vf", "fade=in:0:25", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "8",
    "-pix_fmt", "yuv420p", "-c:a", "aac", "-movflags", "+faststart",
)  # fmt: skip
_PICTURE = ("-f", "lavfi", "-i", "mandelbrot=size=1600x900:start_scale=0.4:maxiter=500", "-frames:v", "1")
_CARD = ("-f", "lavfi", "-i", "testsrc2=size=1200x800", "-frames:v", "1")


@dataclass(slots=True)
class Sent:
    """A file on its way."""

    path: Path
    way: str
    task_id: str
    stage: dict[str, Any] = field(default_factory=dict)
    file: dict[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether nothing will happen to it by itself, and a film has its cover. Refused when something has failed."""
        if self.stage.get("status") == "failed":
            raise Refused(f"{self.path.name}: {self.stage.get('error')}")
        has_cover = not self.file.get("content_type", "").startswith("video/") or self.file.get("cover_url")
        return bool(self.file and has_cover and rules.have_acted(self.file))


def run(base_url: str, work: Path, out_dir: Path, console: Console, stopping: Event) -> int:
    """Tell the story; 0, or 1 after one line that says what failed.

    `work` is a directory for what is made; soon after `stopping` is set nothing is made there any more.
    """
    try:
        door, began = Door(base_url), monotonic()
        sent = _sent_and_watched(door, work, console, stopping)
        again = door.send_form(sent[0].path)
        console.print(_table(sent))
        console.print(f"the picture once more: {again['status']} at once, as file {again['identity']}")
        console.print(rules.table([s.file for s in sent]))
        for name in _fetched(door, sent, out_dir):
            console.print(f"  {name}", markup=False, soft_wrap=True)
        console.print(
            f"{monotonic() - began:.1f} s; the files are in {out_dir.resolve()}", markup=False, soft_wrap=True
        )
    except (Refused, OSError, KeyError) as exc:
        console.print(" ".join(f"demo failed: {exc}".split()), style="bold red", markup=False, soft_wrap=True)
        return 1
    return 0


def _sent_and_watched(door: Door, work: Path, console: Console, stopping: Event) -> list[Sent]:
    """A picture, a film and another picture, stored and with all that rules want of them. Refused, OSError."""
    calls: list[Call] = []

    def heard(call: Call) -> None:
        calls.append(call)
        console.print(rules.told(call), markup=False, soft_wrap=True)

    with receiving(door.new_secret(), heard) as cdn_url:
        rules.make_rules(door, cdn_url)
        film, picture, card = _made(work, stopping)
        sent = [
            Sent(picture, "as a form", door.send_form(picture)["task_id"]),
            Sent(film, "in pieces, cut once", _in_pieces(door, film)),
            Sent(card, "past the API", door.send_direct(card)["task_id"]),
        ]
        _watch(door, sent, console)
    rules.check_chain(sent[1].file, calls)
    return sent


def _made(work: Path, stopping: Event) -> tuple[Path, Path, Path]:
    program = find_ffmpeg()
    if program is None:
        raise Refused("ffmpeg is not installed")
    film, picture, card = work / "film.mp4", work / "picture.jpg", work / "card.png"
    for args, path in ((_FILM, film), (_PICTURE, picture), (_CARD, card)):
        _ffmpeg(program, args, path, stopping)
    return film, picture, card


def _ffmpeg(program: Path, args: Sequence[str], path: Path, stopping: Event) -> None:
    """It ends with the demo, however that ends."""
    deadline = monotonic() + _MAKING_S
    with spawn([program, *_QUIET, *args, path], death_signal=signal.SIGKILL) as child:
        try:
            while child.poll() is None:
                if stopping.wait(_LOOK_S) or monotonic() > deadline:
                    raise Refused(f"ffmpeg did not finish {path.name}")
        finally:
            child.kill()
    if child.returncode != 0:
        raise Refused(f"ffmpeg cannot make {path.name}")


def _in_pieces(door: Door, path: Path) -> str:
    """Send a file in pieces, the second of which breaks off, and go on where the API says it is."""
    data = path.read_bytes()
    where = door.begin_pieces(len(data))
    at = pieces = conflicts = 0
    while at < len(data):
        try:
            door.send_piece(where, at, data[at : at + _PIECE_BYTES], cut=pieces == 1)
            pieces += 1
        except Refused as exc:  # the half that was cut off was still on its way when we asked
            conflicts += 1
            if exc.status != HTTPStatus.CONFLICT or conflicts > _MOST_CONFLICTS:
                raise
        at = door.offset(where)
    return where.rpartition("/")[2]


def _watch(door: Door, sent: Sequence[Sent], console: Console) -> None:
    """Follow every file until it is stored, and a film until it has its cover."""
    deadline = monotonic() + TIME_LIMIT_S
    columns = ("{task.description}", BarColumn(24), TaskProgressColumn(), "{task.fields[told]}", TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = [progress.add_task(s.path.name, total=100, told="") for s in sent]
        while not all(s.is_final for s in sent):
            for bar, s in zip(bars, sent, strict=True):
                _look(door, s)
                progress.update(bar, completed=s.stage["progress"], told=_told(s))
            if monotonic() > deadline:
                raise Refused(f"not done after {TIME_LIMIT_S:.0f} s")
            sleep(POLL_S)


def _look(door: Door, sent: Sent) -> None:
    sent.stage = door.get(f"/api/file/upload/progress/{sent.task_id}")
    if sent.stage["status"] == "completed":
        sent.file = door.get(f"/api/file/{sent.stage['repository_id']}")


def _told(sent: Sent) -> str:
    return "waits for its cover and its rules" if sent.file and not sent.is_final else str(sent.stage["status"])


def _table(sent: Sequence[Sent]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("file", "sent", "type by content"):
        table.add_column(name, no_wrap=True)
    for name in ("KiB sent", "KiB stored"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in sent:
        kib = [f"{s.file[name] / 1024:,.0f}" for name in ("size", "stored_size")]
        table.add_row(s.path.name, s.way, s.file["content_type"], *kib)
    return table


def _fetched(door: Door, sent: Sequence[Sent], out_dir: Path) -> list[str]:
    """Download what is stored, covers and thumbnails; the names."""
    names = []
    for s in sent:
        links = {s.path.name: s.file["url"]}
        if s.file["cover_url"]:
            links[f"{s.path.stem}-cover.jpg"] = s.file["cover_url"]
        links |= {one.product: one.made["url"] for one in rules.done(s.file) if one.made}
        for name, url in links.items():
            door.download(url, out_dir / name)
            names.append(name)
    return names
