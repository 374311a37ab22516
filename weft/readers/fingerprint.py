"""Sources on disk: whether they are there, their files, and a digest that costs no reading.

Standard library only: the Snakefile asks for digests whenever it is parsed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_OF_FOLDERS = (".tsv", ".csv", ".txt", ".xml")


def existing(path: str | Path) -> Path:
    """The path of a source.

    Raises
    ------
    FileNotFoundError
        When nothing is there.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such source; wanted a file or folder with the image")
    return path


def source_files(path: str | Path) -> list[Path]:
    """All files of a source, sorted: the file itself, or every file below the folder (links are followed).

    Raises
    ------
    FileNotFoundError
        When nothing is at ``path``.
    """
    return [Path(path) / name if name else Path(path) for name, _, _ in sorted(_entries(path))]


def fingerprint(path: str | Path) -> str:
    """Digest (64 hexadecimal digits) over the relative name, size and modification time of a source's files.

    It changes when a file is added, removed, renamed or written to; no file is opened. The name and place of
    the source itself do not count. A table or XML file of tiles stands for the folder that it lies in, below
    which the tiles are.

    Raises
    ------
    FileNotFoundError
        When nothing is at ``path``.
    """
    digest = hashlib.sha256()
    if existing(path).is_file() and Path(path).suffix.lower() in _OF_FOLDERS:
        path = Path(path).parent
    for name, size, time in sorted(_entries(path)):
        digest.update(f"{name}\0{size}\0{time}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _entries(path: str | Path) -> Iterator[tuple[str, int, int]]:
    """(relative name, size, mtime in ns) of each file, in the order of the file system."""
    top = existing(path).stat()
    if not os.path.isdir(path):
        yield "", top.st_size, top.st_mtime_ns
        return
    # Folders on the way down, by device and inode: a link that leads back up is not followed again.
    stack = [("", frozenset({(top.st_dev, top.st_ino)}))]
    while stack:
        prefix, above = stack.pop()
        with os.scandir(os.path.join(path, prefix)) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                try:
                    folder, status = entry.is_dir(), entry.stat()
                except FileNotFoundError:  # a link to nothing
                    yield name, -1, 0
                    continue
                if not folder:
                    yield name, status.st_size, status.st_mtime_ns
                elif (key := (status.st_dev, status.st_ino)) not in above:
                    stack.append((f"{name}/", above | {key}))
