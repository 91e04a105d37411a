"""Runs deploy/ on a bare Debian 12 with systemd as PID 1, in systemd-nspawn with a network of its own; by hand, as root.

    python tests/systemd/run.py [--scratch DIR]

Builds image and wheels below DIR (kept for the next run: about 1 GB), boots twice, prints each step and a JSON summary,
and exits 0 when every step was ok. Needs Python 3.11, which the image has too, apt's mirror, and the history of the
sources, for the version before the last change of the schema; debootstrap and systemd-nspawn are taken from the PATH,
else from their packages, unpacked below DIR. The steps are listed in steps.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "systemd,systemd-sysv,dbus,iproute2,procps,python3,python3-venv,postgresql,nginx-light,openssl,ca-certificates"
)
TOOLS = ("debootstrap", "systemd-container", "libsystemd-shared")
BOOTS = {"install": 1200, "reboot": 360}  #: what each boot may take, seconds

#: Its loopback is down after the boot, before anything could listen there.
LOOPBACK = """[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/sbin/ip link set lo up
[Install]
WantedBy=sysinit.target
"""
PROOF = """[Unit]
After=postgresql.service nginx.service
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=exec
ExecStart=/usr/bin/python3 -u /proof/steps.py
StandardOutput=append:/proof/out/log
StandardError=inherit
[Install]
WantedBy=multi-user.target
"""


class Machine:
    """Tools, image and wheels below one directory, and the machine made of them."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._tools = scratch / "tools"
        self._base = scratch / "base"
        self._root = scratch / "root"
        self._wheels = scratch / "wheels"
        self._former = scratch / "former"

    def prepare(self) -> None:
        """A fresh root with deploy/ of these and of former sources, their wheels and everything they depend on."""
        if sys.version_info[:2] != (3, 11) or os.geteuid() != 0:
            sys.exit("needs root and Python 3.11, the version of the image, for which the wheels are collected")
        if not all(map(shutil.which, ("debootstrap", "systemd-nspawn"))):
            self._unpack_tools()
        self._make_base()
        self._make_wheels()
        shutil.rmtree(self._root, ignore_errors=True)
        run("cp", "-a", "--reflink=auto", self._base, self._root)
        proof = self._root / "proof"
        (proof / "out").mkdir(parents=True)
        shutil.copytree(CHECKOUT / "deploy", proof / "deploy")
        shutil.copytree(self._former / "deploy", proof / "former")
        for file in HERE.glob("*.py"):
            shutil.copy(file, proof)
        shutil.copytree(self._wheels, proof / "wheels")
        self._enable("proof-loopback", LOOPBACK, "sysinit")
        self._enable("proof", PROOF, "multi-user")

    def boot(self, name: str) -> list[dict[str, object]]:
        """Boot, let the steps of this boot run, and give their results; whatever happens, the machine has ended."""
        out = self._root / "proof" / "out"
        (out / "boot").write_text(name)
        (out / "log").write_text("")
        argv = ["systemd-nspawn", "-q", "-D", self._root, "--register=no", "--keep-unit", "--private-network", "-b"]
        with (self._scratch / f"console-{name}").open("wb") as console:
            machine = subprocess.Popen(
                argv, env=self._environ(), stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        try:
            _follow(machine, out / "log", deadline=time.monotonic() + BOOTS[name])
        finally:
            if machine.poll() is None:
                machine.terminate()  # nspawn shuts the machine down
                try:
                    machine.wait(60)
                except subprocess.TimeoutExpired:
                    machine.kill()  # and takes it along
                    machine.wait()
        result = out / f"result-{name}.json"
        return json.loads(result.read_text()) if result.exists() else [{"step": f"boot {name}", "ok": False}]

    def remove(self) -> None:
        """The machine's root; base, tools and wheels stay for the next one."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _environ(self) -> dict[str, str]:
        usr = self._tools / "usr"
        return {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:{usr / 'bin'}:{usr / 'sbin'}",
            "LD_LIBRARY_PATH": f"{usr}/lib/x86_64-linux-gnu/systemd:{self._tools}/lib/x86_64-linux-gnu/systemd",
            "DEBOOTSTRAP_DIR": str(usr / "share/debootstrap")
            if not shutil.which("debootstrap")
            else "/usr/share/debootstrap",
        }

    def _unpack_tools(self) -> None:
        if (self._tools / "usr/bin/systemd-nspawn").exists():
            return
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            run("apt-get", "-q", "download", *TOOLS, cwd=folder)
            for package in Path(folder).glob("*.deb"):
                run("dpkg", "-x", package, self._tools)

    def _make_base(self) -> None:
        if (self._base / "complete").exists():
            return
        shutil.rmtree(self._base, ignore_errors=True)
        run(
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            "bookworm",
            self._base,
            MIRROR,
            env=self._environ(),
        )
        (self._base / "complete").touch()

    def _make_wheels(self) -> None:
        """This version with its dependencies, the same sources as version 0.9.9, and former ones as 0.0.9."""
        self._wheels.mkdir(exist_ok=True)
        for old in self._wheels.glob("asynch-*.whl"):
            old.unlink()
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", self._wheels)
        run(*pip, "--find-links", self._wheels, f"{CHECKOUT}[broker,tracing]")
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            newer = Path(folder, "newer")
            shutil.copytree(CHECKOUT, newer, ignore=shutil.ignore_patterns(".*", "tests"))
            _set_version(newer, "0.9.9")
            run(*pip, "--no-deps", newer)
        self._take_former()
        _set_version(self._former, "0.0.9")
        run(*pip, "--no-deps", self._former)

    def _take_former(self) -> None:
        """The sources as they were before the schema got its present version."""
        git = ("git", "-C", CHECKOUT)
        [now] = re.findall(r"'schema_version', '[0-9]+'", (CHECKOUT / "update.sql").read_text())
        *_, first = run(*git, "log", "-m", "--first-parent", "--format=%H", f"-S{now}", "--", "update.sql").split()
        shutil.rmtree(self._former, ignore_errors=True)
        self._former.mkdir()
        packed = self._former / "former.tar"
        run(*git, "archive", "--output", packed, f"{first}^")
        run("tar", "-C", self._former, "-xf", packed)

    def _enable(self, name: str, unit: str, target: str) -> None:
        units = self._root / "etc/systemd/system"
        (units / f"{name}.service").write_text(unit)
        wants = units / f"{target}.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / f"{name}.service").symlink_to(f"../{name}.service")


def run(*argv: object, cwd: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program to its end; what it said, shown only when it fails."""
    done = subprocess.run([*map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{argv[0]} failed with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def _set_version(sources: Path, version: str) -> None:
    project = sources / "pyproject.toml"
    project.write_text(re.sub(r'(?m)^version = ".*"', f'version = "{version}"', project.read_text()))


def _follow(machine: subprocess.Popen[bytes], log: Path, *, deadline: float) -> None:
    """Print what the steps say until the machine has ended, or may no longer run."""
    with log.open() as lines:
        while True:
            ended = machine.poll() is not None or time.monotonic() > deadline
            if text := lines.read():
                print(text, end="", flush=True)
            elif ended:
                return
            time.sleep(0.2)


def main() -> None:
    """Prepare, boot twice, sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir(), "asynch-systemd"))
    parser.add_argument("--keep", action="store_true", help="keep the machine's root to look into")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    machine = Machine(args.scratch.resolve())
    try:
        machine.prepare()
        results = machine.boot("install")
        if all(result["ok"] for result in results[:1]):
            results += machine.boot("reboot")
    finally:
        if not args.keep:
            machine.remove()
    good = all(result["ok"] for result in results)
    print(json.dumps({"ok": good, "steps": results}))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
