"""The text header of NRRD files: what ITK's reader keeps to itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"
    ),
    "float": "f4",
    "double": "f8",
}
_LONGEST, _PIECE = 2**20, 2**12


@dataclass(frozen=True)
class NrrdHeader:
    """Fields of a NRRD header, by lower-case name, and the byte after its closing empty line."""

    fields: dict[str, str]
    end: int

    @property
    def unit(self) -> str | None:
        """The one unit of length of all axes, where the header states it (``space units``, or ``units``)."""
        text = self.fields.get("space units") or self.fields.get("units") or ""
        units = {part.strip() for part in text.split('"') if part.strip()}
        return units.pop() if len(units) == 1 else None

    @property
    def stored(self) -> np.dtype | None:
        """Type of a voxel, byte order included, where voxels follow the header plainly; else None."""
        plain = (
            self.fields.get("encoding") == "raw"
            and "data file" not in self.fields
            and "datafile" not in self.fields
        )
        skips = {self.fields.get(key, "0") for key in ("line skip", "lineskip", "byte skip", "byteskip")}
        code = _TYPES.get(self.fields.get("type", ""))
        order = {"little": "<", "big": ">"}.get(self.fields.get("endian", ""), "=")
        return np.dtype(order + code) if plain and skips == {"0"} and code else None


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Read the header of a NRRD file.

    Raises
    ------
    ValueError
        When the file does not start as NRRD files do, or its header does not end.
    """
    text = b""
    ends: list[int] = []
    with open(path, "rb") as file:
        while not ends and len(text) < _LONGEST and (more := file.read(_PIECE)):
            text += more
            ends = [text.find(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in text]
    end = min(ends, default=len(text))
    if not text.startswith(b"NRRD") or (not ends and path.suffix.lower() != ".nhdr"):
        raise ValueError(f"{path}: found no NRRD header; wanted one that ends with an empty line")
    fields = {}
    for line in text[:end].decode("ascii", "replace").splitlines()[1:]:
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#"):
            fields[name.strip().lower()] = value.strip()
    return NrrdHeader(fields, end)
