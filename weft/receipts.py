"""What a job hands on: small deterministic JSON, digests, results and stores named by what made them.

A receipt says what was made (store, shape, digests) and nothing of how: no times, hosts, versions,
settings or absolute paths, so that an edit without effect does not travel down the chain. How a thing was
made goes beside it, into ``<receipt>.provenance.json``, which no rule reads.

A store is written under ``<store>.partial-<key>``, where the key is a digest of its inputs' voxels, the
settings and the code, and takes its public name when it is complete. Each region's record lies inside the
store that it speaks of (``.weft/<key>/<region>.json``), so that a record and its voxels live and die together.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np

RECORDS = ".weft"
LOCKS = ".locks"


# ---------------------------------------------------------------------------------- digests
def digest(value: Any) -> str:
    """Digest (64 hexadecimal digits) of plain JSON data; the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """Digest of an array's type, shape and values."""
    array = np.ascontiguousarray(array)
    sha = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    sha.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return sha.hexdigest()


def file_digest(path: str | Path) -> str:
    """Digest of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def environment(*packages: str) -> dict[str, str]:
    """Versions of what the numbers depend on, for keys: Python's minor, NumPy, and ``packages``."""
    names = ("numpy", *packages)
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{n: importlib.metadata.version(n) for n in names},
    }


# ---------------------------------------------------------------------------------- receipts
def read(path: str | Path) -> dict[str, Any]:
    """A receipt as a dict.

    Raises
    ------
    ValueError
        When the file is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: is not a receipt (JSON), found {error.msg} at line {error.lineno}; remove it and rerun"
        ) from None


def write(path: str | Path, value: dict[str, Any]) -> None:
    """Write a receipt so that it is there whole or not at all."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file so that it is there whole or not at all."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with _whole(path) as handle:
        handle.write(text.encode())
        handle.flush()
        os.fsync(handle.fileno())


def write_array(path: str | Path, values: np.ndarray) -> None:
    """Write an array as an .npy file so that it is there whole or not at all."""
    with _whole(path) as handle:
        # By its writer alone: given the file, NumPy goes past it, and cannot say what a write failed by.
        np.save(SimpleNamespace(write=handle.write), values, allow_pickle=False)


@contextlib.contextmanager
def _whole(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes its name when all of it is written; else nothing is left of it, as room may be what is missing."""
    # No Path: each would leave names in Python's table of them, thousands in a job of many blocks.
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with writing(path), open(partial, "wb") as handle:
            yield handle
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Have an error of the system name what was being written: that a disk is full comes without a name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def relative_paths(receipt: str | Path, paths: Iterable[str]) -> list[str]:
    """Paths (of the batches that a receipt gathers) relative to the receipt's folder, for its provenance."""
    return [os.path.relpath(path, Path(receipt).parent) for path in paths]


def write_provenance(receipt: str | Path, **facts: Any) -> None:
    """Write how a receipt's thing was made: settings, code, inputs, versions. No rule reads it."""
    facts["versions"] = environment("numba", "zarr", "scipy")
    write(f"{receipt}.provenance.json", facts)


# ---------------------------------------------------------------------------------- results by name
def cached(folder: str | Path, key: str, make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """The record ``<folder>/<key[:2]>/<key>.json``, made by ``make()`` only where it is absent.

    Returns
    -------
    record, made
        The record and whether it had to be made.
    """
    path = record_path(folder, key)
    if path.exists():
        return read(path), False
    value = make()
    write(path, value)
    return value, True


def record_path(folder: str | Path, key: str, suffix: str = ".json") -> Path:
    """Where the result of a key lies."""
    return Path(folder) / key[:2] / f"{key}{suffix}"


@contextlib.contextmanager
def job_lock(receipt: str | Path) -> Iterator[None]:
    """Hold the lock of a job: one that outlived a killed run is waited for, not raced."""
    path = Path(receipt).parent / LOCKS / f"{Path(receipt).name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------------------------- keyed stores
class KeyedStore:
    """A store that is built beside its public name and takes that name when it is complete.

    Parameters
    ----------
    public
        Path under which users find it.
    key
        Digest of all that makes its content.
    """

    def __init__(self, public: str | Path, key: str) -> None:
        self.public = Path(public)
        self.key = key[:16]
        self.partial = self.public.with_name(f"{self.public.name}.partial-{self.key}")

    @classmethod
    def published(cls, public: str | Path) -> KeyedStore:
        """The store that lies under a public name, with the key it was made under.

        Raises
        ------
        ValueError
            When there is no such store, or nothing says what made it.
        """
        keys = [folder.name for folder in (Path(public) / RECORDS).glob("*") if folder.is_dir()]
        if len(keys) != 1:
            raise ValueError(
                f"{public}: is not a finished store of weft (found {len(keys)} keys); run `python -m weft verify`"
            )
        return cls(public, keys[0])

    @property
    def path(self) -> Path:
        """Where to write (and find) regions: the public store when it has this key, else the partial one."""
        known = not self.public.is_symlink() and (self.public / RECORDS / self.key).is_dir()
        return self.public if known else self.partial

    def start(self) -> None:
        """Make the folder of the records, so that the store is known by its key from now on.

        Raises
        ------
        ValueError
            When something that weft did not make has the public name.
        """
        _check_own(self.public)
        (self.path / RECORDS / self.key).mkdir(parents=True, exist_ok=True)

    def restart(self) -> None:
        """Start a store that is written in one go: what a killed job left of it is removed."""
        _check_own(self.public)
        for place in (self.path, self.partial):
            shutil.rmtree(place, ignore_errors=True)
        self.start()

    def record(self, region: str) -> Path:
        """Where the record of a region lies, inside the store that it speaks of."""
        return self.path / RECORDS / self.key / f"{region}.json"

    def done(self, region: str) -> bool:
        """Whether a region is there, made under this key."""
        return self.record(region).exists()

    def finish(self, region: str, shards: dict[str, str], **facts: Any) -> None:
        """Record a region after its voxels are written: the digest of each of its shards, and facts.

        What is no array is recorded as ``files``, the digest of each file by its path in the store.
        """
        write(self.record(region), {"shards": shards, **facts})

    def records(self, regions: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The records of ``regions``.

        Raises
        ------
        ValueError
            When one is missing, made under another key, or not whole.
        """
        found = {}
        for region in regions:
            path = self.record(region)
            if not path.exists():
                raise ValueError(
                    f"{self.public}: region {region} was not made under key {self.key}; rerun the batches that make it"
                )
            found[region] = read(path)
        return found

    def data_digest(self, records: dict[str, dict[str, Any]]) -> str:
        """Merkle root over the digests of all shards (and files)."""
        parts = [record.get(kind, {}) for record in records.values() for kind in ("shards", "files")]
        return digest(sorted(entry for part in parts for entry in part.items()))

    def publish(self, *spoken_by: str | Path) -> None:
        """Give a complete store its public name, in place of an older one.

        Parameters
        ----------
        spoken_by
            Receipts that speak of the store by its public name. They are removed before another store takes
            that name, so that no receipt ever describes a store that it was not written for.

        Raises
        ------
        ValueError
            When something that weft did not make has the public name.
        """
        _sweep(self.path)
        if self.path != self.public:
            with replaced(self.public, *spoken_by):
                os.replace(self.partial, self.public)


@contextlib.contextmanager
def replaced(public: str | Path, *spoken_by: str | Path) -> Iterator[None]:
    """Free a public name while the block gives it to another store (or link); the older store is removed at the end.

    Parameters
    ----------
    public
        The name. What is there is a store of weft or a link; what a link points to is left alone.
    spoken_by
        Receipts that speak of the older store; they are removed first.

    Raises
    ------
    ValueError
        When something that weft did not make has the name.
    """
    public = Path(public)
    _check_own(public)
    for receipt in spoken_by:
        Path(receipt).unlink(missing_ok=True)
    if public.is_symlink():
        public.unlink()
    elif public.exists():
        os.replace(public, public.with_name(f"{public.name}.old-{os.getpid()}"))
    yield
    for old in public.parent.glob(f"{public.name}.old-*"):
        shutil.rmtree(old, ignore_errors=True)


def _check_own(public: Path) -> None:
    """Refuse a name under which something lies that weft did not make: it is never removed."""
    if public.exists() and not public.is_symlink() and not (public / RECORDS).is_dir():
        raise ValueError(
            f"{public}: exists and was not made by weft; wanted a free name, move it away and rerun"
        )


def is_unfinished(name: str) -> bool:
    """Whether a file is what a killed writer left half-written: of `write_text`, of a block, or of zarr."""
    return _UNFINISHED.fullmatch(name) is not None


def file_digests(folder: str | Path) -> dict[str, str]:
    """Digest of every file below a folder by its path in it, but for the folder's own records."""
    folder = Path(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.relative_to(folder) for path in paths]
    return {
        name.as_posix(): file_digest(path)
        for path, name in zip(paths, names, strict=True)
        if name.parts[0] not in (RECORDS, LOCKS)
    }


def _sweep(store: Path) -> None:
    """Remove from a complete store what killed writers left half-written, and its locks."""
    for folder, names, files in os.walk(store):
        for name in filter(is_unfinished, files):
            (Path(folder) / name).unlink(missing_ok=True)
        if LOCKS in names:
            names.remove(LOCKS)
            shutil.rmtree(Path(folder) / LOCKS, ignore_errors=True)


_UNFINISHED = re.compile(r"\..+\.\d+(\.npy)?|.+\.[0-9a-f]{32}\.partial")
