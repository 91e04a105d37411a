"""Says as JSON what can be reached and made inside a unit: by a process of it, and by one in the cage of media programs.

films.py runs it in the place of the worker, with everything else that the worker's unit says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

from asynch.domain.filetype import UNKNOWN
from asynch.media import Piece, Shop
from asynch.media.caged import run_caged

#: Of the standard library alone, as what runs in the cage.
LOOK = """
import ctypes, errno, fcntl, json, os, socket, struct

libc = ctypes.CDLL(None)
KINDS = {"mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000,
         "pid": 0x20000000, "net": 0x40000000}

def can_make(flags):
    child = os.fork()
    if child == 0:
        os._exit(libc.unshare(flags) != 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def reached(address):
    try:
        socket.create_connection(address, 2).close()
        return "reached"
    except OSError as exc:
        return errno.errorcode.get(exc.errno, str(exc))

def is_up(name):
    with socket.socket() as asked:
        answer = fcntl.ioctl(asked, 0x8913, struct.pack("16sh14x", name.encode(), 0))  # SIOCGIFFLAGS
    return bool(struct.unpack("16sh14x", answer)[1] & 1)

names = [line.partition(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line]
print(json.dumps({
    "interfaces": {name: is_up(name) for name in names},
    "api": reached(("127.0.0.1", 8080)),
    "alone": [kind for kind, flag in KINDS.items() if can_make(flag)],
    "with_user": [kind for kind, flag in KINDS.items() if can_make(flag | KINDS["user"])],
}))
"""


def main() -> None:
    argv = [sys.executable, "-I", "-S", "-c", LOOK]
    free = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as scratch:
        shop = Shop(Path(scratch), lambda: None, lambda *_: None)
        caged = run_caged(argv, Piece(Path(__file__), UNKNOWN, shop, monotonic() + 30))
    assert caged.code == 0, caged
    print(json.dumps({"free": json.loads(free), "caged": json.loads(caged.out)}))


if __name__ == "__main__":
    main()
