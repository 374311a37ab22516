"""How many threads a backend may use for the block at hand: no setting, as results do not depend on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Part = TypeVar("Part")
Found = TypeVar("Found")
AHEAD = 64  # parts that `in_turn` hands to its threads before the first of them is done

_count: ContextVar[int] = ContextVar("threads of a block", default=1)


@contextmanager
def block_threads(count: int) -> Iterator[None]:
    """Let backends use `count` threads for each block registered inside, by the calling thread.

    Raises
    ------
    ValueError
        For a count below 1.
    """
    if count < 1:
        raise ValueError(f"{count} threads for a block; wanted 1 or more")
    token = _count.set(count)
    try:
        yield
    finally:
        _count.reset(token)


def threads_of_block() -> int:
    """What `block_threads` allows; 1 outside it."""
    return _count.get()


def share_out(work: Callable[[Any], Any], parts: Iterable[Any]) -> None:
    """Call `work`, which holds no global lock, with every part, in as many threads as the block may use."""
    parts = list(parts)
    count = min(threads_of_block(), len(parts))
    if count <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(work, parts):
            pass


def in_turn(
    pool: ThreadPoolExecutor, work: Callable[[Part], Found], parts: Iterable[Part]
) -> Iterator[Found]:
    """As ``pool.map``, but few parts wait at a time: a thousand of them would take a megabyte."""
    waiting: deque[Future[Found]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
