"""What every Python process of a measured run used, written at its end.

Python imports this module by itself when its folder is on PYTHONPATH; it does nothing unless METER_FOLDER names
a folder. A job's start-up (interpreter and imports) ends where its script opens its log.
"""

import atexit
import json
import os
import resource
import sys
import time
from pathlib import Path


def _used() -> dict[str, float]:
    """So far: clock, CPU seconds, and bytes through read and write calls; children that ended are included."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {
        "clock": time.clock_gettime(time.CLOCK_BOOTTIME),
        "own_cpu": own.ru_utime + own.ru_stime,
        "children_cpu": children.ru_utime + children.ru_stime,
        "bytes_read": int(io["rchar"]),
        "bytes_written": int(io["wchar"]),
    }


def _started() -> float:
    """When the process started, seconds since boot."""
    # The command's name may hold blanks and parentheses; after the last one, field 22 of `man proc` is the 20th.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _own_peak() -> int:
    """Largest resident set of this process, bytes."""
    # Not ru_maxrss, which in a process begins with the memory of the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def _watch(folder: Path) -> None:
    process = os.getpid()
    ready: list[dict[str, float]] = []

    def notice(event: str, arguments: tuple) -> None:
        if event == "open" and not ready and arguments[1] == "w" and str(arguments[0]).endswith(".log"):
            ready.append(_used())

    def write() -> None:
        if os.getpid() != process:  # a fork that leaves by the front door
            return
        record = {
            "process": process,
            "program": sys.argv[0],
            "started": _started(),
            "ready": ready[0] if ready else None,
            "ended": _used(),
            "own_peak": _own_peak(),
            "children_peak": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        }
        (folder / f"{process}.json").write_text(json.dumps(record))

    sys.addaudithook(notice)
    atexit.register(write)


if os.environ.get("METER_FOLDER"):
    _watch(Path(os.environ["METER_FOLDER"]))
