"""Check results against their own digests, and remove what nobody refers to: `weft verify` and `weft clean`.

Neither needs Snakemake, and neither should run beside it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft import receipts
from weft.inventory import Inventory, Remover, found_by_name, keys_of, linked
from weft.stores.ome_zarr import metadata_digest, open_image, shard_voxels

COST = ".cost.json"
_PARTIAL = re.compile(r".+\.partial-([0-9a-f]{16})")
_OLD = re.compile(r".+\.old-\d+")


@dataclass
class Damage:
    """What is wrong with one store, or one result found by name.

    Parameters
    ----------
    path
        The store, or the result's record.
    what
        In words.
    regions
        Names of the regions to be made anew; None where all of it is, empty where only receipts are.
    removed
        What was removed (or would be), so that a rerun makes it anew.
    mends
        False where a rerun cannot help: the data belong to somebody else.
    """

    path: Path
    what: str
    regions: list[str] | None = None
    removed: list[Path] = field(default_factory=list)
    mends: bool = True


def verify_results(
    results: str | Path, *, dry_run: bool = False, threads: int = 4
) -> tuple[int, list[Damage]]:
    """Compare every store with the digests recorded when it was written, and free what differs for a rerun.

    Of a store whose voxels differ, the damaged shards go with the records of their regions, then the receipts
    of the batches that made these regions and those that speak of the store; of one that is missing or cannot
    be read, all records and receipts. Images that are only referenced are compared and never touched.

    Parameters
    ----------
    results
        Folder of the results.
    dry_run
        Only say what would be removed.
    threads
        Shards that are read at once.

    Returns
    -------
    checked, damaged
        Number of stores and of results found by name that were compared; what was wrong.

    Raises
    ------
    ValueError
        When ``results`` is no folder of results, or a link.
    """
    remover = Remover(results, dry_run)
    inventory = Inventory(remover.root)
    damaged = [Damage(path, "is not JSON") for path in inventory.unreadable]
    for damage in damaged:
        damage.removed += remover.remove(damage.path)
    stores = inventory.stores()
    found = [path for path in found_by_name(remover.root) if path.suffix == ".json"]
    found = [path for path in found if not path.name.endswith(COST)]
    with ThreadPoolExecutor(threads) as pool:
        for store in stores:
            wrong = _check_store(store, inventory, pool) and _look_again(store, remover.root, pool)
            if wrong:
                _release_store(wrong, inventory, remover)
                damaged.append(wrong)
        for path, what in zip(found, pool.map(_check_result, found), strict=True):
            if what:
                damaged.append(Damage(path, what))
                _release_result(damaged[-1], inventory, remover)
    return len(stores) + len(found), damaged


def clean_results(results: str | Path, *, dry_run: bool = False) -> list[tuple[Path, int]]:
    """Remove partial stores, half-written files, results found by name and locks that nobody refers to.

    What a killed run had begun counts as such: rerun it first, or its unfinished jobs start anew.

    Returns
    -------
    list of (path, bytes)
        What was removed (or would be) and how much room it took.

    Raises
    ------
    ValueError
        When ``results`` is no folder of results, or a link, or when a job is at work in it.
    """
    remover = Remover(results, dry_run)
    inventory = Inventory(remover.root)
    left = list(_left_over(remover.root))
    locks = [path for path in left if path.name == receipts.LOCKS]
    for lock in (path for folder in locks for path in folder.glob("*.lock")):
        if _held(lock):
            raise ValueError(f"{lock}: a job is at work; wait until it has ended, then clean")
    in_use = {str(batch.get("key", ""))[:16] for batch in inventory.batches.values()}
    left = [
        path for path in left if not ((partial := _PARTIAL.fullmatch(path.name)) and partial[1] in in_use)
    ]
    left += [path for path in found_by_name(remover.root) if path.name.split(".")[0] not in inventory.keys]
    sizes = [(path, _size(path)) for path in left]
    for path in left:
        remover.remove(path)
    return sizes


def _left_over(root: Path) -> Iterator[Path]:
    """Partial and replaced stores, half-written files and locks."""
    for place, names, files in os.walk(root):
        folder = Path(place)
        for name in sorted(names):
            path = folder / name
            old = _OLD.fullmatch(name) and (path / receipts.RECORDS).is_dir()
            if (name == receipts.LOCKS or _PARTIAL.fullmatch(name) or old) and not path.is_symlink():
                names.remove(name)
                yield path
        for name in sorted(files):
            if receipts.is_unfinished(name) or (folder.name == "exports" and name.startswith("partial-")):
                yield folder / name


def _held(lock: Path) -> bool:
    """Whether a job holds a lock."""
    with open(lock) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _size(path: Path) -> int:
    """Bytes that removing a path gives back: files with a second name do not count."""
    files = [path] if path.is_file() else [Path(f) / name for f, _, names in os.walk(path) for name in names]
    states = [file.lstat() for file in files]
    return sum(state.st_size for state in states if state.st_nlink == 1)


# ---------------------------------------------------------------------------------- what is wrong
def _check_store(store: Path, inventory: Inventory, pool: ThreadPoolExecutor) -> Damage | None:
    """Compare a store with its records, and these with the receipts."""
    facts = [inventory.receipts[path] for path in inventory.receipts_of(store)]
    if any(one.get("referenced") for one in facts):
        return _check_referenced(store, facts[0])
    if linked(inventory.root, store):
        return Damage(store, "is a link or lies outside the results", mends=not store.exists())
    if not store.is_dir():
        return Damage(store, "is missing")
    keys = keys_of(store)
    wanted = inventory.key_of(store)
    if len(keys) != 1 or (wanted and keys != [wanted]):
        return Damage(store, f"has no records under its key {wanted or ''}".rstrip())
    records, bad = _read_records(store / receipts.RECORDS / keys[0])
    arrays = {_array_of(name) for record in records.values() for name in record["shards"]}
    for array in sorted(arrays):
        try:
            zarr.open_array(str(store / array), mode="r")
        except Exception as error:  # whatever a broken file makes zarr say
            return Damage(store, f"cannot be opened: {type(error).__name__}: {error}")
    todo = [
        (region, kind, name, value)
        for region, record in records.items()
        for kind in ("shards", "files")
        for name, value in record.get(kind, {}).items()
    ]
    whole = pool.map(lambda one: _is_whole(store, *one[1:]), todo)
    bad += [one[0] for one, holds in zip(todo, whole, strict=True) if not holds]
    if bad:
        bad = sorted(set(bad))
        regions = None if "all" in bad else bad
        return Damage(store, f"differs from its records in {len(bad)} of {len(records)} regions", regions)
    root = receipts.KeyedStore(store, keys[0]).data_digest(records)
    for one in facts:
        if "metadata" in one and metadata_digest(store) != one["metadata"]:
            return Damage(store, "has other metadata than its receipt says")
        if one["data"] not in (root, *_with_affine(root, one)):
            made = [
                name
                for path in inventory.batches_of(store, keys[0], None)
                for name in inventory.batches[path]["regions"]
            ]
            missing = [name for name in made if not {name, f"0-{name}"} & set(records)]
            return Damage(
                store, f"is not what its receipt speaks of ({len(missing)} regions are missing)", missing
            )
    return None


def _look_again(store: Path, root: Path, pool: ThreadPoolExecutor) -> Damage | None:
    """Check a store once more, with all that speaks of it read anew.

    A run that goes on beside `verify` may have renamed or finished a store between its receipts and its voxels.
    """
    inventory = Inventory(root)
    return _check_store(store, inventory, pool) if store in inventory.stores() else None


def _check_referenced(store: Path, facts: dict[str, Any]) -> Damage | None:
    from weft.steps.import_image import referenced_digest

    if not store.is_symlink():
        return Damage(store, "is no longer the link that it was")
    try:
        same = referenced_digest(open_image(store)) == facts["data"]
    except Exception as error:  # whatever a broken file makes zarr say
        return Damage(store, f"is referenced and cannot be read: {error}", mends=False)
    return None if same else Damage(store, "is referenced and holds other voxels than before", mends=False)


def _read_records(folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Records of all regions, and the names of those that cannot be read."""
    records, bad = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            record = receipts.read(path)
            if not isinstance(record["shards"], dict):
                raise KeyError("shards")
            records[path.stem] = record
        except (ValueError, KeyError, TypeError):
            bad.append(path.stem)
    return records, bad


def _array_of(name: str) -> str:
    """Folder of the array that a shard belongs to: of ``0/c.i.j.k``, ``0/c/0/i/j/k``, ``c.i.j.k`` or ``gain``."""
    if match := re.fullmatch(r"(?:(.*)/)?c(?:/\d+)+", name):
        return match[1] or ""
    if match := re.fullmatch(r"(?:(.*)/)?\d+(?:\.\d+)+", name):
        return match[1] or ""
    return name


def _is_whole(store: Path, kind: str, name: str, value: str) -> bool:
    """Whether a shard, or a file, is what was written."""
    try:
        if kind == "files":
            return receipts.file_digest(store / name) == value
        return receipts.array_digest(_voxels(store, name)) == value
    except Exception:  # whatever a broken file makes zarr say
        return False


def _voxels(store: Path, name: str) -> np.ndarray:
    """Decoded values of a shard, by any of the names that steps give."""
    array = _array_of(name)
    if array == name:
        return np.asarray(zarr.open_array(str(store / array), mode="r")[...])
    if not re.search(r"(^|/)c(/\d+)+$", name):
        return shard_voxels(store, name)
    opened = zarr.open_array(str(store / array), mode="r")
    place = [int(part) for part in name.removeprefix(f"{array}/").split("/")[1:]]
    step = opened.shards or opened.chunks
    return np.asarray(opened[tuple(slice(i * s, (i + 1) * s) for i, s in zip(place, step, strict=True))])


def _with_affine(root: str, facts: dict[str, Any]) -> list[str]:
    """Data digests of a transform whose field has this root."""
    steps = facts.get("sequence", [])
    matrices = [step["matrix"] for step in steps if step["type"] == "affine"]
    return [receipts.digest([root, facts["grid"], matrix]) for matrix in matrices]


def _check_result(path: Path) -> str:
    """What is wrong with a result found by name: nothing, or words."""
    try:
        record = receipts.read(path)
        if "data" in record:
            values = np.load(path.with_suffix(".npy"), allow_pickle=False)
            if receipts.array_digest(values) != record["data"]:
                return "differs from its record"
        if path.parts[-3] == "blocks":
            receipts.read(path.with_suffix(COST))
    except (ValueError, OSError, EOFError) as error:
        return f"cannot be read: {error}"
    return ""


def _release_store(damage: Damage, inventory: Inventory, remover: Remover) -> None:
    """Remove what keeps a rerun from mending a store: records first, so that none outlives its voxels.

    A public store without records is replaced by one that is made anew beside it.
    """
    if not damage.mends:
        return
    store = damage.path
    key = inventory.key_of(store) or next(iter(keys_of(store)), None)
    if not linked(inventory.root, store):
        _release_voxels(damage, remover)
    for path in inventory.batches_of(store, key, damage.regions):
        damage.removed += remover.remove_receipt(path)
    for path in inventory.receipts_of(store):
        damage.removed += remover.remove_receipt(path)


def _release_voxels(damage: Damage, remover: Remover) -> None:
    store = damage.path
    if damage.regions is None and _PARTIAL.fullmatch(store.name):
        damage.removed += remover.remove(store)
        return
    for key in keys_of(store):
        folder = store / receipts.RECORDS / key
        if damage.regions is None:
            damage.removed += remover.remove(folder)
            continue
        records, _ = _read_records(folder)
        for region in damage.regions:
            damage.removed += remover.remove(folder / f"{region}.json")
            for name in records.get(region, {}).get("shards", {}):
                array = _array_of(name)
                chunk = name.removeprefix(f"{array}/").replace(".", "/")
                damage.removed += remover.remove(store / array / "c" / chunk)


def _release_result(damage: Damage, inventory: Inventory, remover: Remover) -> None:
    """Remove a result found by name, and the receipts of the batch that names it and of what gathers that."""
    key = damage.path.stem
    for suffix in (".json", ".npy", COST):
        damage.removed += remover.remove(damage.path.with_name(f"{key}{suffix}"))
    for batch in [
        path for path, facts in inventory.batches.items() if key in facts.get("blocks", {}).values()
    ]:
        for receipt in (batch, *inventory.gathering(batch)):
            damage.removed += remover.remove_receipt(receipt)
