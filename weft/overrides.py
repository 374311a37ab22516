"""The table of overrides: what a person says of tiles and pairs of tiles, against stage and measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from weft.config.base import Model, Name
from weft.names import suggest
from weft.refusals import ConfigError, parse


class Override(Model):
    """A row of the table of overrides."""

    image: Name = Field(description="Image that the tiles belong to.")
    action: Literal["pin", "exclude", "force"] = Field(
        description="`pin`: hold a tile at a position; `exclude`: do not use a pair's link, or any link of a tile, which is not fused either; `force`: believe a pair's displacement."
    )
    tile_a: str = Field(min_length=1, description="A tile, by its name in tiles.json.")
    tile_b: str | None = Field(None, description="The other tile of a pair.")
    z: float | None = Field(None, description="Position (pin) or displacement of tile_b from tile_a, um.")
    y: float | None = Field(None, description="The same along y.")
    x: float | None = Field(None, description="The same along x.")

    @model_validator(mode="after")
    def _makes_sense(self) -> Override:
        given = [axis for axis in "zyx" if getattr(self, axis) is not None]
        if len(given) not in (0, 3):
            raise ValueError(f"wanted all of z, y and x, or none; found {', '.join(given)}")
        if self.action == "force" and self.tile_b is None:
            raise ValueError("force is said of a pair of tiles; found no tile_b")
        if self.action == "pin" and self.tile_b is not None:
            raise ValueError(f"pin is said of one tile; found tile_b {self.tile_b!r} too")
        if self.action == "exclude" and given:
            raise ValueError("exclude takes no z, y and x")
        if self.tile_b == self.tile_a:
            raise ValueError(f"a pair needs two tiles; found {self.tile_a!r} twice")
        return self


def read_overrides(path: str | Path, images: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a table of overrides by image, as plain data, each with the ``line`` it stands on.

    Parameters
    ----------
    path
        TSV with the columns of `Override`; columns that no row uses may be left out, lines that begin with
        ``#`` are comments.
    images
        Names of the images that are stitched.

    Raises
    ------
    ConfigError
        In one sentence, with the line.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{path}: the table of overrides is missing")
    rows: dict[str, list[dict[str, Any]]] = {}
    columns: list[str] = []
    seen: dict[tuple[Any, ...], int] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        where = f"{path}: line {number}"
        if not columns:
            columns = cells
            for name in columns:
                if name not in Override.model_fields:
                    raise ConfigError(
                        f"{where}: there is no column {name!r}{suggest(name, Override.model_fields)}"
                    )
            continue
        cells += [""] * (len(columns) - len(cells))
        if len(cells) > len(columns):
            raise ConfigError(
                f"{where}: found {len(cells)} cells; wanted {len(columns)}, as many as the heading"
            )
        row = parse(Override, {k: v for k, v in zip(columns, cells, strict=True) if v}, where)
        if row.image not in images:
            raise ConfigError(
                f"{where}: there is no stitched image {row.image!r}{suggest(row.image, images)}"
            )
        about = (row.image, *sorted(filter(None, (row.tile_a, row.tile_b))))
        if about in seen:
            raise ConfigError(f"{where}: line {seen[about]} already speaks of {' and '.join(about[1:])}")
        seen[about] = number
        rows.setdefault(row.image, []).append({**row.model_dump(exclude={"image"}), "line": number})
    return rows
