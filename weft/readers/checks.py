"""What every reader asks of a source: its voxel size, unit, orientation and channels, each checked."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from weft.grid import Triple

_MICROMETRES = {
    **dict.fromkeys(("micrometer", "micrometre", "micron", "microns", "um", "µm", "μm"), 1.0),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), 1e-3),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), 1e3),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), 1e4),
    **dict.fromkeys(("meter", "metre", "m"), 1e6),
    **dict.fromkeys(("angstrom", "Å"), 1e-4),
}
_PAIRS = ("rl", "ap", "si")
COLOURS = ("red", "green", "blue")


@contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever a format's library raises on a broken file into one sentence that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: cannot be read as {kind} ({reason})") from error


def micrometres(unit: str, where: str | Path) -> float:
    """Micrometres in one ``unit``.

    Raises
    ------
    ValueError
        When the unit is unknown.
    """
    factor = _MICROMETRES.get(unit.strip()) or _MICROMETRES.get(unit.strip().lower().removesuffix("s"))
    if factor is None:
        raise ValueError(
            f"{where}: unknown unit of length {unit!r}; wanted micrometer, millimeter, nanometer ..."
        )
    return factor


def voxel_size(value: Sequence[float] | None, where: str | Path) -> Triple:
    """A voxel size, um, (z, y, x), checked.

    Raises
    ------
    ValueError
        When it is missing, or not three positive finite numbers.
    """
    if value is None:
        raise ValueError(f"{where}: no voxel size is stated; give it as `spacing`, um, (z, y, x)")
    try:
        sizes = [float(v) for v in value]
    except (TypeError, ValueError):
        sizes = []
    if len(sizes) != 3 or not all(math.isfinite(v) and v > 0 for v in sizes):
        raise ValueError(f"{where}: voxel size is {value!r}; wanted three positive numbers, um, (z, y, x)")
    return sizes[0], sizes[1], sizes[2]


def orientation_code(code: str | None, where: str | Path) -> str | None:
    """An orientation code in lower case, checked: one letter of each of r/l, a/p and s/i.

    Raises
    ------
    ValueError
        When a letter is unknown or an axis comes twice.
    """
    if code is None:
        return None
    letters = str(code).lower()
    if len(letters) != 3 or any(sum(letter in pair for letter in letters) != 1 for pair in _PAIRS):
        raise ValueError(
            f"{where}: orientation is {code!r}; wanted three letters, one each of r/l, a/p and s/i, for (z, y, x)"
        )
    return letters


def label_type(dtype: Any, where: str | Path) -> None:
    """Refuse a label image whose voxels are not integers: names have no fractions.

    Raises
    ------
    ValueError
        When the type is not an integer type.
    """
    if np.dtype(dtype).kind not in "ui":
        raise ValueError(
            f"{where}: labels are {np.dtype(dtype)}; wanted an integer type, for labels are names"
        )


def label_volume(data: Any, where: str | Path) -> Any:
    """A volume of labels as integers: one of floats is made uint32 as it is read, if that loses nothing.

    Programs of neuroimaging often store labels as floats.

    Parameters
    ----------
    data
        Dask array, (c, z, y, x).
    where
        The source, for errors.

    Returns
    -------
    dask.array.Array
        The same, or its voxels as uint32; reading raises ValueError where a voxel is not a whole number from 0 to 2^32 - 1.
    """
    if data.dtype.kind != "f":
        label_type(data.dtype, where)
        return data
    empty = np.empty((0,) * data.ndim, np.uint32)
    return data.map_blocks(_whole_numbers, str(where), dtype=np.uint32, meta=empty)


def _whole_numbers(block: np.ndarray, where: str) -> np.ndarray:
    """Floats that are whole numbers, as uint32."""
    whole = (block >= 0) & (block < 2**32) & (block == np.trunc(block))
    if not whole.all():
        raise ValueError(
            f"{where}: labels are {block.dtype}, and one of them is {block[~whole][0]:g}; wanted integers, or floats that "
            "are whole numbers from 0 to 2^32 - 1, for labels are names"
        )
    return block.astype(np.uint32)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which ``plane2`` comes before ``plane10``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts if part]


def channel_names(names: Sequence[str] | None, count: int, where: str | Path) -> tuple[str, ...]:
    """Names of ``count`` channels: those given, else their numbers.

    Raises
    ------
    ValueError
        When the count differs or a name comes twice.
    """
    if names is None:
        return tuple(str(n) for n in range(count))
    names = tuple(str(name) for name in names)
    if len(names) != count:
        raise ValueError(
            f"{where}: {len(names)} channel names ({', '.join(names)}) are given; the source has {count} channels"
        )
    if len(set(names)) != count:
        raise ValueError(
            f"{where}: channel names {', '.join(names)} are not unique; wanted a name for each channel"
        )
    return names


def inside(folder: Path, name: str, where: str | Path) -> Path:
    """The path of a file that a source names, which has to lie below the source's folder.

    Parameters
    ----------
    folder
        Below it all files have to lie.
    name
        What the source says: relative to ``folder``, or absolute.
    where
        What an error begins with.

    Raises
    ------
    ValueError
        When the name leads out of the folder. Links are not looked at: who made them meant them.
    """
    top = os.path.abspath(folder)
    place = os.path.normpath(os.path.join(top, name.replace("\\", "/")))
    if place != top and not place.startswith(top.rstrip(os.sep) + os.sep):
        raise ValueError(f"{where}: the path {name!r} leaves {folder}; wanted one below it")
    return Path(place)


def number(value: float | str | None, name: str, where: str | Path) -> float:
    """A number, which an option or a table may give as text.

    Raises
    ------
    ValueError
        When it is no finite number.
    """
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{where}: {name} is {value!r}; wanted a number")
    return found


def whole_number(value: float | str | None, name: str, where: str | Path, least: int = 0) -> int:
    """A whole number of at least ``least``, which an option may give as text.

    Raises
    ------
    ValueError
        When it is none.
    """
    found = number(value, name, where)
    if not found.is_integer() or found < least:
        raise ValueError(f"{where}: {name} is {value!r}; wanted a whole number of at least {least}")
    return int(found)


def one_of(value: str, choices: Sequence[str], name: str, where: str | Path) -> str:
    """A word out of a list.

    Raises
    ------
    ValueError
        When it is another one.
    """
    if value not in choices:
        raise ValueError(f"{where}: {name} is {value!r}; wanted one of {', '.join(choices)}")
    return value


def words(value: str | Sequence[Any] | None) -> list[str] | None:
    """A list of words, which an option of images.tsv gives as one text with commas."""
    if value is None:
        return None
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else [str(v) for v in value]


def sample_number(sample: int | str, count: int, where: str | Path) -> int:
    """Which of the ``count`` samples of a pixel an option names: by number, or as red, green or blue.

    Raises
    ------
    ValueError
        When there is no such sample.
    """
    place = COLOURS.index(sample) if sample in COLOURS else whole_number(sample, "sample", where)
    if place >= count:
        raise ValueError(f"{where}: sample is {sample!r}; its pixels have {count}")
    return place


def pairs(value: str | Mapping[str, Any] | None) -> dict[str, str]:
    """Names and values, which an option of images.tsv gives as one text, ``name:value,name:value``."""
    if isinstance(value, str):
        parts = [part.partition(":") for part in words(value) or ()]
        return {name.strip(): text.strip() for name, _, text in parts}
    return {str(name): str(text) for name, text in (value or {}).items()}
