"""The promises of units and nginx where files come in and are worked on; each step's first line is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from ground import API, OUT, SECOND, WORKER, kept, pid, sh, show, until
from sending import MIB, File, Tus, by_buffer, by_form, by_put, by_tus, fetched, stage, stored

LARGE = 300  #: MiB
STATE = Path("/var/lib/asynch")
NGINX_TMP = "/var/lib/nginx"


def film(name: str, seconds: int) -> File:
    """A film that can be made smaller."""
    [program] = Path("/opt/asynch/lib").glob("python3.*/site-packages/imageio_ffmpeg/binaries/ffmpeg-*")
    path = OUT / f"{name}.mp4"
    picture, sound = f"testsrc2=s=1280x720:r=25:d={seconds}", f"sine=f=220:d={seconds}"
    sh(
        f"{program} -nostdin -v error -y -f lavfi -i {picture} -f lavfi -i {sound}"
        f" -c:v libx264 -preset ultrafast -crf 8 -pix_fmt yuv420p -c:a aac {path}"
    )
    return File.of(path)


def takes_films() -> str:
    """films come through nginx, one as a form, one by tus with a cut: made smaller, each with its cover"""
    one, two = film("one", 4), film("two", 6)
    first, second = by_form(one), Tus(two)
    second.send(cut_after=2)
    there = second.go_on()
    assert 0 < there < two.size
    said = []
    for file, task in ((one, first), (two, second.task)):
        found = stored(task, cover=True)
        content, cover = fetched(found["url"]), fetched(found["cover_url"])
        assert (found["content_type"], content[4:8], cover[:2]) == ("video/mp4", b"ftyp", b"\xff\xd8")
        assert len(content) == found["stored_size"] < found["size"] == file.size
        said.append(f"{file.size} to {len(content)} bytes")
        kept["film"] = found["identity"], content, cover
    return f"{'; '.join(said)}; the cut came at {there}"


def media_is_shut_in() -> str:
    """under the worker's unit a caged program has no network, and nobody can make another kind of namespace"""
    unit = Path("/run/systemd/system/proof-sandbox.service")
    shutil.copy("/etc/systemd/system/asynch-worker@.service", unit)
    drop = unit.with_name(f"{unit.name}.d")
    drop.mkdir()
    start = "ExecStart=\nExecStart=/opt/asynch/bin/python /proof/sandbox.py"
    output = f"StandardOutput=truncate:{OUT}/sandbox"
    (drop / "proof.conf").write_text(f"[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\n{start}\n{output}\n")
    try:
        sh(f"systemctl daemon-reload && systemctl start {unit.name}")
    finally:
        unit.unlink()
        shutil.rmtree(drop)
        sh("systemctl daemon-reload")
    said = json.loads((OUT / "sandbox").read_text())
    free, caged = said["free"], said["caged"]
    assert (free["api"], free["interfaces"]["lo"]) == ("reached", True), free  # so it is the cage that shuts off
    assert (caged["api"], caged["interfaces"]) == ("ENETUNREACH", {"lo": False}), caged
    assert (free["alone"], free["with_user"]) == (["user"], ["user", "net"]), free
    assert caged["alone"] == caged["with_user"] == [], caged
    return "an unconnected loopback, ENETUNREACH; in the unit user and net, no mnt, pid, ipc, uts, cgroup; caged none"


def media_programs_run_so() -> str:
    """what compresses a film for the worker has a network of its own, and no rights"""
    kept["long"] = by_form(film("long", 60))
    until(lambda: stage(kept["long"])["status"] == "compressing" and programs(), 60, "it is being compressed")
    [(program, worker)] = programs().items()
    spaces = {kind: _space(program, kind) != _space(worker, kind) for kind in ("net", "user", "mnt", "pid", "ipc")}
    assert spaces == {"net": True, "user": True, "mnt": False, "pid": False, "ipc": False}
    links = sh(f"nsenter -t {program} -n ip -brief link").splitlines()
    assert [link.split()[:2] for link in links] == [["lo", "DOWN"]], links
    facts = dict(re.findall(r"(?m)^(\w+):\s+(\S+)", Path(f"/proc/{program}/status").read_text()))
    assert (facts["NoNewPrivs"], facts["Seccomp"], int(facts["CapEff"], 16)) == ("1", "2", 0), facts
    return f"{Path(f'/proc/{program}/comm').read_text().strip()}: lo is down, no other interface"


def worker_is_killed_while_it_compresses() -> str:
    """kill -9 of the worker that compresses: its program ends with it, the film completes, tmp_dir is empty"""
    [(program, worker)] = programs().items()
    assert stage(kept["long"])["status"] == "compressing"
    os.kill(worker, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{program}").exists(), 5, "the program has ended")
    until(lambda: all(show(unit, "ActiveState") == "active" for unit in (WORKER, SECOND)), 30, "restart")
    found = stored(kept["long"], 180, cover=True)
    assert found["stored_size"] < found["size"]
    took = until(lambda: not left_in_tmp(), 120, "tmp_dir is empty")
    return f"{found['size']} to {found['stored_size']} bytes; nothing left {took:.0f} s after the cover"


def large_files_pass_through() -> str:
    """300 MiB as a form, by tus and by PUT: nginx keeps nothing on the disk, the API's memory stays flat"""
    ways: dict[str, Callable[[File], str]] = {"form": by_form, "tus": by_tus, "PUT": by_put}
    said = []
    for way, send in ways.items():
        before, disk = _written(), _held()
        _forget_peak()
        flat = _peak()
        task = send(large(way, lambda disk=disk: _look_halfway(disk)))
        grown, wrote = _peak() - flat, _written() - before
        assert grown < 48 * MIB, f"{way}: {grown} bytes more memory"
        assert wrote < 4 * MIB, f"{way}: nginx wrote {wrote} bytes"
        assert stored(task)["stored_size"] == LARGE * MIB
        said.append(f"{way}: nginx wrote {wrote // 1024} KiB, memory +{grown // MIB} MiB")
    before = _written()
    by_buffer(8 * MIB)
    assert _written() - before >= 8 * MIB, "what nginx does keep is not seen"
    return "; ".join(said)


def large(way: str, halfway: Callable[[], None]) -> File:
    """By its content a PDF, another for each way; `halfway` is called while the second half is still to come."""
    rest = os.urandom(MIB)

    def pieces() -> Iterator[bytes]:
        yield f"%PDF-1.7\n{way}".encode().ljust(MIB)
        for number in range(1, LARGE):
            if number == LARGE // 2:
                halfway()
            yield rest

    return File(f"{way}.pdf", LARGE * MIB, pieces)


def _look_halfway(before: int) -> None:
    """What was sent is with the API, but for what sockets hold; nginx has no file of it, not even a nameless one."""
    until(lambda: _held() - before > (LARGE // 2 - 32) * MIB, 30, "the first half is on the API's disk")
    files = sh(f"find /proc/[0-9]*/fd -lname '{NGINX_TMP}/*'; find {NGINX_TMP} -type f", ok=False)
    assert files == "", files


def _held() -> int:
    """Bytes below the state directory."""
    return int(sh(f"du -sb {STATE}", ok=False).split()[0])


def _written() -> int:
    """Bytes that nginx wrote to disks so far."""
    told = [Path(f"/proc/{nginx}/io").read_text() for nginx in sh("pgrep -x nginx").split()]
    return sum(int(re.search(r"(?m)^write_bytes: (\d+)", text)[1]) for text in told)  # type: ignore[index]


def _api() -> list[str]:
    """Its processes."""
    main = pid(API)
    return [str(main), *sh(f"pgrep -P {main}").split()]


def _forget_peak() -> None:
    for process in _api():
        Path(f"/proc/{process}/clear_refs").write_text("5")  # proc(5): the peak begins anew


def _peak() -> int:
    """The most memory that the API's processes had since that, bytes."""
    told = [Path(f"/proc/{process}/status").read_text() for process in _api()]
    return sum(int(re.search(r"VmHWM:\s+(\d+)", text)[1]) << 10 for text in told)  # type: ignore[index]


def programs() -> dict[int, int]:
    """The films' programs that run, and the workers they run for."""
    workers = {pid(WORKER), pid(SECOND)}
    found = {}
    for program in map(int, sh("pgrep -u asynch ffmpeg", ok=False).split()):
        parent = int(sh(f"ps -o ppid= -p {program}", ok=False) or 0)
        if parent in workers:
            found[program] = parent
    return found


def _space(process: int, kind: str) -> str:
    return os.readlink(f"/proc/{process}/ns/{kind}")


def left_in_tmp() -> list[str]:
    """What lies in tmp_dir besides its own directories and the host's id."""
    own = "-name .host-id -o -name .incoming -o -name .scratch"
    return sh(f"find {STATE}/tmp -mindepth 1 -not \\( {own} \\)", ok=False).split()
