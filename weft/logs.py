"""What a job says while it works: a log of its own, and a line of progress now and then."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("weft")
FULL = (errno.ENOSPC, errno.EDQUOT)
QUIET = 10.0  # seconds between lines of progress on the terminal
LONG = 3.0  # seconds after which it is said that kernels are compiled


@contextlib.contextmanager
def capture_log(path: str) -> Iterator[None]:
    """Write the job's messages, warnings and errors to ``path``, and its peak memory at the end.

    Where kernels have to be compiled first, and that takes long, it is said there and on the terminal.
    Errors of the user's making (ValueError, FileNotFoundError, OSError) end the process with their one
    sentence; anything else keeps its traceback, in the log and on the terminal.
    """
    handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(handler)
    try:
        with _compiling_told():
            yield
    except (ValueError, OSError) as error:
        log.exception("stopped")
        full = isinstance(error, OSError) and error.errno in FULL
        then = "; make room and rerun: what was done is kept" if full else ""
        sys.exit(f"Error: {error}{then} (log: {os.path.relpath(path)})")
    except BaseException:
        log.exception("stopped")
        raise
    else:
        log.info("peak memory %.0f MB", peak_memory() / 1e6)
    finally:
        log.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def _compiling_told() -> Iterator[None]:
    """Say once that kernels are compiled, if that takes long."""
    if "numba" not in sys.modules:  # what is imported later is small
        yield
        return
    from numba.core import event

    class Told(event.Listener):
        """Events are nested where kernels call each other."""

        depth, spent, since, said = 0, 0.0, 0.0, False

        def on_start(self, _: object) -> None:
            if self.depth == 0:
                self.since = time.monotonic()
            self.depth += 1

        def on_end(self, _: object) -> None:
            now = time.monotonic()
            if not self.said and self.spent + now - self.since > LONG:
                self.said = True
                _say("compiling kernels, once for each version of weft and type of CPU: it may take a minute")
            self.depth -= 1
            if self.depth == 0:
                self.spent += now - self.since

    with event.install_listener("numba:compile", Told()):
        yield


def peak_memory() -> int:
    """Largest resident set of this process so far, bytes."""
    # What getrusage says begins, in a process, with the memory of the one that started it.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def warn(sentence: str) -> None:
    """Say what a user has to see, though the work goes on: in the log and on the terminal."""
    log.warning(sentence)
    print(f"Warning: {sentence}", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    """Say how far the work is: in the log and on the terminal."""
    log.info(line)
    print(line, file=sys.stderr, flush=True)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass ``items`` on; say how far it is, in the log and (rarely) on the terminal."""
    start = last = time.monotonic()
    for n, item in enumerate(items):
        now = time.monotonic()
        if n and now - last > QUIET:
            left = (now - start) / n * (total - n)
            _say(f"{what}: {n} of {total}, about {left:.0f} s left")
            last = now
        yield item
    log.info("%s: all %d done", what, total)
