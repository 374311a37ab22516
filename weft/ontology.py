"""The hierarchy of an atlas's regions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Summable(Protocol):
    """Whatever can be added to its like: numbers, arrays."""

    def __add__(self, other: Any, /) -> Any: ...


Value = TypeVar("Value", bound=Summable)


@dataclass(frozen=True)
class Structure:
    """One region of an atlas.

    Parameters
    ----------
    id
        Its value in the annotation, above 0.
    name, acronym
        As people know it.
    parent
        Id of the region it is part of; None for a root.
    """

    id: int
    name: str
    acronym: str
    parent: int | None


@dataclass(frozen=True)
class Ontology:
    """Regions and what they are part of.

    Parameters
    ----------
    structures
        In any order.

    Raises
    ------
    ValueError
        When an id is not positive or comes twice, a parent is missing, or a region is part of itself.
    """

    structures: tuple[Structure, ...]

    def __post_init__(self) -> None:
        if not self.structures:
            raise ValueError("the ontology has no regions; wanted at least one")
        seen: dict[int, Structure] = {}
        for structure in self.structures:
            if structure.id <= 0:
                raise ValueError(
                    f"region {structure.acronym!r} has the id {structure.id}; wanted an integer above 0"
                )
            if structure.id in seen:
                first = seen[structure.id]
                raise ValueError(
                    f"id {structure.id} belongs to two regions, {first.acronym!r} and {structure.acronym!r}; "
                    "wanted one region per id"
                )
            seen[structure.id] = structure
        for structure in self.structures:
            if structure.parent is not None and structure.parent not in seen:
                raise ValueError(
                    f"region {structure.id} ({structure.acronym}) is part of region {structure.parent}, "
                    "which is not in the ontology"
                )
        reached = {structure.id for structure, _ in self.walk()}
        circular = sorted(set(seen) - reached)
        if circular:
            raise ValueError(
                f"region {circular[0]} ({seen[circular[0]].acronym}) leads round in a circle to itself or to one that "
                "does; wanted a hierarchy that ends in a root"
            )

    @classmethod
    def read(cls, path: str | Path) -> Ontology:
        """Read a table (CSV, TSV) or a JSON file.

        A table has the columns ``id``, ``name``, ``acronym`` and one of ``parent_id``, ``parent_structure_id``,
        ``structure_id_path`` (``/997/8/``, ending in the region itself). JSON is either the Allen Institute's tree
        (``children`` inside each region, with or without ``{"msg": [...]}`` around it) or a list of regions with the
        fields of the table (the path may be a list of ids).

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ValueError
            When it cannot be read, a field is missing or is not an integer, or the hierarchy is broken.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such ontology")
        records = _from_json(path) if path.suffix.lower() == ".json" else _from_table(path)
        structures = tuple(_structure(record, place, path) for place, record in records)
        try:
            return cls(structures)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def __contains__(self, region: object) -> bool:
        return region in self._by_id

    def __getitem__(self, region: int) -> Structure:
        """The region of an id.

        Raises
        ------
        KeyError
            When there is none.
        """
        return self._by_id[region]

    def children(self, region: int) -> list[int]:
        """Ids of the regions directly inside a region, ascending."""
        return self._children.get(region, [])

    def ancestors(self, region: int) -> list[int]:
        """Ids of what a region is part of: the parent first, the root last.

        Raises
        ------
        ValueError
            When the id is not in the ontology.
        """
        if region not in self:
            raise ValueError(f"region {region} is not in the ontology of {len(self.structures)} regions")
        found: list[int] = []
        parent = self[region].parent
        while parent is not None:
            found.append(parent)
            parent = self[parent].parent
        return found

    def walk(self) -> Iterator[tuple[Structure, int]]:
        """Every region with its depth (0 for a root): parents before children, siblings by ascending id."""
        stack = [(root, 0) for root in reversed(self._children.get(None, []))]
        while stack:
            region, depth = stack.pop()
            yield self[region], depth
            stack.extend((child, depth + 1) for child in reversed(self.children(region)))

    def roll_up(self, own: Mapping[int, Value]) -> dict[int, Value]:
        """Sum of each region's own value and those of all regions inside it.

        Parameters
        ----------
        own
            Value (a number or an array) of regions by id; a region without one counts as nothing.

        Returns
        -------
        dict
            Sum by id, for the regions that have a value and all they are part of, parents before children.
            The order of summation is fixed by the hierarchy, so that floats come out the same every time.

        Raises
        ------
        ValueError
            When an id is not in the ontology.
        """
        unknown = sorted(region for region in own if region not in self)
        if unknown:
            raise ValueError(f"region {unknown[0]} is not in the ontology of {len(self.structures)} regions")
        order = [structure for structure, _ in self.walk()]
        total: dict[int, Value] = dict(own)
        for structure in reversed(order):
            if structure.id in total and structure.parent is not None:
                value = total[structure.id]
                total[structure.parent] = (
                    total[structure.parent] + value if structure.parent in total else value
                )
        return {structure.id: total[structure.id] for structure in order if structure.id in total}

    @cached_property
    def _by_id(self) -> dict[int, Structure]:
        return {structure.id: structure for structure in self.structures}

    @cached_property
    def _children(self) -> dict[int | None, list[int]]:
        found: dict[int | None, list[int]] = {}
        for region in sorted(self._by_id):
            found.setdefault(self._by_id[region].parent, []).append(region)
        return found


PARENT_FIELDS = ("parent_id", "parent_structure_id", "structure_id_path")

Record = tuple[str, dict[str, Any]]  # where it stands in the file, its fields


def _from_table(path: Path) -> list[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        columns = reader.fieldnames or []
        missing = [name for name in ("id", "name", "acronym") if name not in columns]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]}; it has {', '.join(columns) or 'none'}")
        if not set(PARENT_FIELDS) & set(columns):
            raise ValueError(
                f"{path} has no column that names parents; wanted one of {', '.join(PARENT_FIELDS)}"
            )
        return [(f"line {reader.line_num}", row) for row in reader]


def _from_json(path: Path) -> list[Record]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None
    if isinstance(content, dict) and "msg" in content:
        content = content["msg"]
    found: list[Record] = []
    stack = [(region, None) for region in reversed(content if isinstance(content, list) else [content])]
    while stack:
        region, parent = stack.pop()
        place = f"region number {len(found) + 1}"
        if not isinstance(region, dict):
            raise ValueError(
                f"{path}, {place}: found {type(region).__name__}; wanted an object with id and acronym"
            )
        fields = dict(region)
        children = fields.pop("children", None) or []
        if parent is not None:
            fields |= {"parent_id": parent, "parent_structure_id": None, "structure_id_path": None}
        found.append((place, fields))
        stack.extend((child, fields.get("id")) for child in reversed(children))
    return found


def _structure(record: dict[str, Any], place: str, path: Path) -> Structure:
    region = _integer(record.get("id"), "id", place, path)
    if region is None:
        raise ValueError(f"{path}, {place}: the id is missing; wanted an integer")
    return Structure(
        id=region,
        name=str(record.get("name") or record.get("acronym") or region),
        acronym=str(record.get("acronym") or region),
        parent=_parent(record, region, place, path),
    )


def _parent(record: dict[str, Any], region: int, place: str, path: Path) -> int | None:
    for field in ("parent_id", "parent_structure_id"):
        parent = _integer(record.get(field), field, place, path)
        if parent is not None:
            return parent
    steps = record.get("structure_id_path") or []
    if isinstance(steps, str):
        steps = [step for step in steps.split("/") if step]
    ids = [_integer(step, "structure_id_path", place, path) for step in steps]
    if ids and ids[-1] != region:
        raise ValueError(
            f"{path}, {place}: structure_id_path ends in {ids[-1]}; wanted the region's id, {region}"
        )
    return ids[-2] if len(ids) > 1 else None


def _integer(value: Any, field: str, place: str, path: Path) -> int | None:
    """An id; also from spreadsheets that write ``8.0``; None where the field is empty."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan", "none", "null")):
        return None
    try:
        if isinstance(value, str) and value.strip().lstrip("-").isdigit():
            return int(value)
        number = float(value)
        if number == int(number):
            return int(value) if isinstance(value, int) else int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{path}, {place}: {field} is {value!r}; wanted an integer")
