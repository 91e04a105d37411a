"""The cage: no media program outlives its run, uses more than it may, reaches a network or crowds the host."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
import pytest
from PIL import Image

from asynch.domain.filetype import UNKNOWN
from asynch.errors import CallCut, CutReason, ProcessorError, TmpUnavailable
from asynch.media import Limits, Piece, cage
from asynch.media.caged import Ran, run_caged
from tests.clips import H264, Bench, MakeBench, ffmpeg
from tests.waiting import until

MIB = 1 << 20
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and death signals are Linux's")


def media_programs(word: Path) -> list[psutil.Process]:
    """The processes of this host with that path on their command line, but for Python's own helpers."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(word) in line and "ffmpeg" in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def run_python(bench: Bench, script: str, *args: str) -> Ran:
    """Let a Python program run in the cage."""
    piece = Piece(Path(__file__), UNKNOWN, bench.shop, time.monotonic() + bench.shop.limits.deadline_s)
    return run_caged([sys.executable, "-I", "-S", "-c", textwrap.dedent(script), *args], piece)


# -- the end of a run ----------------------------------------------------------------------------------------------


@needs_linux
def test_kill_9_of_the_worker_leaves_no_program(tmp_path: Path, endless_film: Path) -> None:
    script = f"""
        from pathlib import Path
        from asynch.media import Shop
        from asynch.media.processors import PROCESSORS
        shop = Shop(Path({str(tmp_path)!r}), lambda: None, lambda *_: None)
        processor = PROCESSORS["video.compress"]
        processor.run(Path({str(endless_film)!r}), processor.options(crf=16), shop)
    """
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    until(lambda: (tmp_path / "product.mp4").exists())
    assert media_programs(tmp_path)

    worker.send_signal(signal.SIGKILL)
    worker.wait()

    until(lambda: not media_programs(tmp_path), most_s=2)


def test_a_check_that_raises_ends_the_program_at_once(make_bench: MakeBench, endless_film: Path) -> None:
    cut_at: list[float] = []

    def check() -> None:
        if (scratch / "product.mp4").exists():
            cut_at.append(time.monotonic())
            raise CallCut(CutReason.CANCEL, "cut")

    bench = make_bench(check=check)
    scratch = bench.shop.scratch
    with pytest.raises(CallCut):
        bench.run("video.compress", endless_film, crf=16)

    assert time.monotonic() - cut_at[0] < 0.5
    assert media_programs(scratch) == []


def test_the_check_is_asked_ten_times_a_second(make_bench: MakeBench, endless_film: Path) -> None:
    asked: list[float] = []
    bench = make_bench(check=lambda: asked.append(time.monotonic()), limits=Limits(deadline_s=1))
    with pytest.raises(ProcessorError, match="not done"):
        bench.run("video.compress", endless_film, crf=16)

    assert median(after - before for before, after in pairwise(asked)) < 0.1


@needs_linux
def test_what_a_program_started_ends_with_it(make_bench: MakeBench) -> None:
    def check() -> None:
        if started.exists() and started.read_text():
            raise CallCut(CutReason.CANCEL, "cut")

    bench = make_bench(check=check)
    started = bench.shop.scratch / "child"
    script = """
        import os, time
        child = os.fork()
        if child:
            open("child", "w").write(str(child))
        time.sleep(60)
    """
    with pytest.raises(CallCut):
        run_python(bench, script)

    child = int(started.read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_program_that_the_host_ends_may_be_tried_again(bench: Bench, endless_film: Path) -> None:
    """A stop of the service tells all its processes to end."""

    def end_it() -> None:
        until(lambda: (bench.shop.scratch / "product.mp4").exists())
        for program in media_programs(bench.shop.scratch):
            program.terminate()

    host = threading.Thread(target=end_it)
    host.start()
    with pytest.raises(ProcessorError, match="told to end") as caught:
        bench.run("video.compress", endless_film, crf=16)
    host.join()

    assert caught.value.transient


@pytest.mark.parametrize(
    "title", ["No space left on device", "x\n[error] No space left on device", "x\u2028No space left on device"]
)
def test_a_title_cannot_fill_the_disk(bench: Bench, clips: Path, tone: Path, title: str) -> None:
    """An attempt that the disk ended is repeated for ever."""
    ffmpeg(
        "-i",
        tone,
        "-c",
        "copy",
        "-metadata",
        f"title={title}",
        "-metadata",
        f"comment={title}",
        path := clips / "t.mp3",
    )

    with pytest.raises(ProcessorError, match="no moving picture"):
        bench.run("video.compress", path)
    (cut := clips / "cut.mp3").write_bytes(path.read_bytes()[:400])
    with pytest.raises(ProcessorError, match="cannot be processed"):
        bench.run("audio.transcode", cut)


# -- limits --------------------------------------------------------------------------------------------------------


def test_a_run_over_its_deadline_fails_and_may_be_tried_again(make_bench: MakeBench, endless_film: Path) -> None:
    with pytest.raises(ProcessorError, match=r"not done within 0.5 s") as caught:
        make_bench(limits=Limits(deadline_s=0.5)).run("video.compress", endless_film, crf=16)

    assert caught.value.transient


def test_a_film_over_the_cpu_limit_fails_for_good(make_bench: MakeBench, endless_film: Path) -> None:
    with pytest.raises(ProcessorError, match="more than 1 s of CPU time") as caught:
        make_bench(limits=Limits(deadline_s=30, cpu_s=1)).run("video.compress", endless_film, crf=16)

    assert not caught.value.transient


def test_a_film_over_the_memory_limit_fails(make_bench: MakeBench, clips: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=gray:s=3840x2160:d=0.5:r=10", *H264, path := clips / "large.mp4")

    with pytest.raises(ProcessorError, match="more than 200 MiB of memory"):
        make_bench(limits=Limits(deadline_s=30, memory_bytes=200 * MIB)).run("video.compress", path)


def test_a_picture_over_the_memory_limit_fails(make_bench: MakeBench, clips: Path) -> None:
    Image.new("RGB", (6000, 6000)).save(path := clips / "large.png", compress_level=1)

    with pytest.raises(ProcessorError, match="more than 100 MiB of memory"):
        make_bench(limits=Limits(deadline_s=30, memory_bytes=100 * MIB)).run("image.thumbnail", path)


def test_a_product_over_the_output_limit_fails(make_bench: MakeBench, film: Path) -> None:
    with pytest.raises(ProcessorError, match="over 20000 bytes"):
        make_bench(limits=Limits(deadline_s=30, output_bytes=20000)).run("video.compress", film)


def test_a_picture_over_the_output_limit_fails(make_bench: MakeBench, photo: Path) -> None:
    with pytest.raises(ProcessorError, match="over 2000 bytes"):
        make_bench(limits=Limits(deadline_s=30, output_bytes=2000)).run("image.compress", photo)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
@pytest.mark.parametrize(("name", "product"), [("video.compress", "product.mp4"), ("media.probe", "product.json")])
def test_a_full_disk_is_nobodys_fault(bench: Bench, film: Path, name: str, product: str) -> None:
    (bench.shop.scratch / product).symlink_to("/dev/full")

    with pytest.raises(TmpUnavailable):
        bench.run(name, film)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_full_disk_is_not_the_pictures_fault(bench: Bench, photo: Path) -> None:
    (bench.shop.scratch / "product.jpg").symlink_to("/dev/full")

    with pytest.raises(TmpUnavailable):
        bench.run("image.thumbnail", photo)


@needs_linux
def test_a_lower_limit_of_the_host_stays(bench: Bench) -> None:
    script = """
        import resource, subprocess, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        inner = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
        bounds = map(str, (os.getpid(), 1 << 32, 100, 1 << 30))
        subprocess.run([sys.executable, "-I", "-S", sys.argv[1], *bounds, sys.executable, "-c", inner], check=True)
    """
    ran = run_python(bench, "import os\n" + textwrap.dedent(script), str(Path(cage.__file__)))

    assert ran.out == "(32, 32)\n", ran.err


# -- what is shut off ----------------------------------------------------------------------------------------------


@needs_linux
def test_a_program_has_no_network(bench: Bench) -> None:
    if subprocess.run(["unshare", "-Un", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel refuses namespaces")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        ran = run_python(
            bench, "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)", port
        )

    assert ran.code == 1
    assert "Network is unreachable" in ran.err


@needs_linux
def test_a_program_gets_no_new_rights(bench: Bench) -> None:
    ran = run_python(bench, "print(open('/proc/self/status').read())")

    assert "NoNewPrivs:\t1" in ran.out
    assert "CapEff:\t0000000000000000" in ran.out


def test_a_program_knows_nothing_of_our_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCH_SECRETS__KEYS", "secret")

    assert "secret" not in run_python(bench, "import os; print(dict(os.environ))").out


def test_a_program_inherits_no_file(bench: Bench, tmp_path: Path) -> None:
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        ran = run_python(bench, "import os; print(len(os.listdir('/proc/self/fd')))")

    assert int(ran.out) == 4  # its three, and the listing


def test_a_program_that_talks_without_end_is_heard_to_its_limit(bench: Bench) -> None:
    ran = run_python(bench, "import sys; [sys.stderr.write('x' * 1000000) for _ in range(20)]")

    assert ran.code == 0
    assert len(ran.err) == 1 << 18
