"""What lies below a folder of results: stores, who speaks of them, and how to remove them safely."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft import receipts

PROVENANCE = ".provenance.json"
CACHE = receipts.RECORDS  # results found by name lie in <results>/.weft
RESULT = re.compile(r"([0-9a-f]{64})(\.cost\.json|\.json|\.npy)")
_KEY = re.compile(r"[0-9a-f]{16}")


class Inventory:
    """Everything below a folder of results that speaks of something else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.receipts: dict[Path, dict[str, Any]] = {}
        self.provenance: dict[Path, dict[str, Any]] = {}
        self.batches: dict[Path, dict[str, Any]] = {}
        self.unreadable: list[Path] = []
        self.keys: set[str] = set()
        self._stores: dict[Path, list[Path]] = {}
        for folder, files in _folders(root):
            if keys_of(folder):
                self._stores.setdefault(folder, [])
            if keys_of(folder) or "zarr.json" in files:
                continue
            for path in (folder / name for name in files if name.endswith(".json") and name[0] != "."):
                self._add(path)

    def _add(self, path: Path) -> None:
        try:
            facts = receipts.read(path)
        except FileNotFoundError:  # by a job that has begun in the meantime
            return
        except ValueError:
            if path.relative_to(self.root).parts[0] in ("images", "registrations"):
                self.unreadable.append(path)
            return
        if path.name.endswith(PROVENANCE):
            self.provenance[Path(str(path).removesuffix(PROVENANCE))] = facts
            self.keys.update([facts["key"]] if "key" in facts else [], facts.get("keys", []))
        elif "batches" in path.relative_to(self.root).parts:
            self.batches[path] = facts
            self.keys.update(facts.get("blocks", {}).values())
        elif isinstance(facts, dict) and isinstance(facts.get("store"), str) and "data" in facts:
            self.receipts[path] = facts
            self._stores.setdefault(_beside(path, facts["store"]), []).append(path)

    def stores(self) -> list[Path]:
        """Every store that a receipt names, or that lies there with records, finished or not."""
        return sorted(self._stores)

    def receipts_of(self, store: Path) -> list[Path]:
        """Receipts that speak of a store."""
        return self._stores[store]

    def key_of(self, store: Path) -> str | None:
        """The key that a store was made under, by what is written beside its receipt."""
        keys = [self.provenance.get(path, {}).get("key") for path in self.receipts_of(store)]
        return next((key[:16] for key in keys if key), None)

    def batches_of(self, store: Path, key: str | None, regions: list[str] | None) -> list[Path]:
        """Receipts of the batches that made ``regions`` (None: any) of a store."""
        made = [path for path, batch in self.batches.items() if "regions" in batch]
        if key:
            made = [path for path in made if str(self.batches[path].get("key"))[:16] == key]
        else:
            made = [path for path in made if path.is_relative_to(store.parent)]
        if regions is None:
            return made
        names = set(regions) | {name.removeprefix("0-") for name in regions}
        return [path for path in made if names & set(self.batches[path]["regions"])]

    def gathering(self, batch: Path) -> list[Path]:
        """Receipts that gather a batch."""
        return [
            receipt
            for receipt, facts in self.provenance.items()
            if any(_beside(receipt, name) == batch for name in facts.get("batches", []))
        ]


def _beside(path: Path, name: str) -> Path:
    return Path(os.path.normpath(path.parent / name))


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with the names of their files; links are not followed, and stores not entered."""
    for place, names, files in os.walk(root):
        folder = Path(place)
        store = folder != root and ("zarr.json" in files or bool(keys_of(folder)))
        aside = (receipts.RECORDS, receipts.LOCKS, *(("logs", "benchmarks") if folder == root else ()))
        names[:] = [] if store else sorted(set(names) - set(aside))
        yield folder, sorted(files)


def keys_of(store: Path) -> list[str]:
    """Keys of the records inside a store."""
    folder = store / receipts.RECORDS
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _KEY.fullmatch(path.name) and path.is_dir())


def found_by_name(root: Path) -> list[Path]:
    """Files of the results that are found by name."""
    found = (Path(folder) / name for folder, _, files in os.walk(root / CACHE) for name in files)
    return sorted(path for path in found if RESULT.fullmatch(path.name) and not linked(root, path))


def linked(root: Path, path: Path) -> bool:
    """Whether a path leaves the results, or is reached through a link."""
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
        return True
    return any(
        part.is_symlink() for part in (path, *path.parents) if part != root and part.is_relative_to(root)
    )


class Remover:
    """Removes what lies below a folder of results, and nothing else; never through a link."""

    def __init__(self, results: str | Path, dry_run: bool) -> None:
        root = Path(os.path.normpath(results))
        if root.is_symlink():
            raise ValueError(f"{root}: is a link; wanted the folder of results itself")
        if not any((root / name).is_dir() for name in ("images", "registrations", "phantom", CACHE)):
            raise ValueError(f"{root}: holds no results of weft; wanted their folder (--results)")
        self.root = root
        self.dry_run = dry_run

    def remove(self, path: Path) -> list[Path]:
        """Remove a file or folder; give it back when it was there.

        Raises
        ------
        ValueError
            When it lies outside the results, or behind a link.
        """
        if path == self.root or linked(self.root, path):
            raise ValueError(f"{path}: lies outside {self.root}, or behind a link; it was left alone")
        if not path.exists():
            return []
        if not self.dry_run:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return [path]

    def remove_receipt(self, path: Path) -> list[Path]:
        """Remove a receipt, and after it what says how its thing was made."""
        return self.remove(path) + self.remove(Path(f"{path}{PROVENANCE}"))
