"""The tables of images and of registrations: their columns, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, WithJsonSchema, field_validator

from weft.config.base import CODE, Channel, Model, Name
from weft.names import suggest
from weft.readers import formats, tiled_formats
from weft.refusals import ConfigError, parse
from weft.registration.orientation import validate_orientation

# What the cells of a table look like before they are read.
NUMBERS = WithJsonSchema({"type": "string", "pattern": r"^[^,]+,[^,]+,[^,]+$", "examples": ["5,1.8,1.8"]})
TEXTS = WithJsonSchema({"type": "string", "examples": ["autofluorescence,signal"]})
PAIRS = WithJsonSchema({"type": "string", "examples": ["check=full"]})
WEIGHTS = WithJsonSchema({"type": "string", "examples": ["1,0.5"]})
PATHS = WithJsonSchema({"type": "string", "examples": ["landmarks.csv", "fixed.csv,moving.csv"]})
FLAG = WithJsonSchema({"type": "string", "enum": ["yes", "no"]})


class ImageRow(Model):
    """A row of images.tsv."""

    image: Name = Field(description="Name of the image.")
    source: str = Field(min_length=1, description="File or folder, relative to `data_root`.")
    format: str = Field(
        "auto",
        description="`colm`, `tiff_tiles`, `tiff_grid` ... for tiles (docs/readers.md); else `auto`, or a reader's name.",
    )
    orientation: str | None = Field(
        None,
        description="Three letters, one per axis (z, y, x): where the axis points as its index grows (r/l, a/p, s/i).",
        json_schema_extra=CODE,
    )
    spacing: Annotated[tuple[float, float, float], NUMBERS] | None = Field(
        None, description="Voxel size, um, `z,y,x`; overrides what the file says."
    )
    labels: Annotated[bool, FLAG] = Field(False, description="`yes` for a label image: never interpolated.")
    channels: Annotated[list[Channel], TEXTS] | None = Field(
        None, description="Names of the channels, comma-separated."
    )
    options: Annotated[dict[str, str], PAIRS] = Field(
        default_factory=dict, description="Further options of the reader, `name=value;name=value`."
    )
    dark: float | str | None = Field(
        None, description="Source of the dark offset for this image; overrides `illumination.dark`."
    )

    @field_validator("spacing", mode="before")
    @classmethod
    def _triple(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.split(",")
        try:
            numbers = tuple(float(part) for part in parts)
        except ValueError:
            numbers = ()
        if len(numbers) != 3 or not all(0 < n < float("inf") for n in numbers):
            raise ValueError(f"wanted three positive numbers z,y,x in um; found {value!r}")
        return numbers

    @field_validator("channels", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("options", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.split("=", 1) for part in value.split(";")]
        if any(len(part) != 2 for part in parts):
            raise ValueError(f"wanted name=value;name=value; found {value!r}")
        return {name.strip(): text.strip() for name, text in parts}

    @field_validator("labels", mode="before")
    @classmethod
    def _flag(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lower() not in ("yes", "no"):
            raise ValueError(f"wanted yes or no; found {value!r}")
        return value.lower() == "yes"

    @field_validator("dark", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        try:
            return float(value)
        except (TypeError, ValueError):
            return value

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "auto" and value not in formats():
            raise ValueError(f"there is no reader {value!r}{suggest(value, formats())}")
        return value

    @field_validator("orientation")
    @classmethod
    def _code(cls, value: str | None) -> str | None:
        return validate_orientation(value) if value else None

    @property
    def tiled(self) -> bool:
        """Whether the source is tiles that have to be stitched."""
        return self.format in tiled_formats()


class RegistrationRow(Model):
    """A row of registrations.tsv."""

    registration: Name = Field(description="Name of the registration.")
    fixed: Name = Field(description="Image whose space is the target.")
    moving: Name = Field(description="Image that is brought onto it.")
    fixed_channel: str | None = Field(
        None, description="Channel of the fixed image to register (default: the first)."
    )
    moving_channel: str | None = Field(
        None, description="Channel of the moving image to register (default: the first)."
    )
    fixed_more: Annotated[list[str], TEXTS] | None = Field(
        None,
        description="Further channels of the fixed space that the stages compare too, comma-separated: `channel` of the fixed image, `image/channel` of another image of the same space, or `image/` for its first one.",
    )
    moving_more: Annotated[list[str], TEXTS] | None = Field(
        None,
        description="Their partners in the moving space, as many and in the same order. The affine and the measures of quality use the first channels alone.",
    )
    channel_weights: Annotated[list[float], WEIGHTS] | None = Field(
        None,
        description="How much each channel counts in the stages, comma-separated, the first one first (default: all the same).",
    )
    fixed_mask: Name | None = Field(
        None,
        description="Image in the fixed space that says where the fixed image counts: above 0, or by weights of 0 to 1 (a float type).",
    )
    moving_mask: Name | None = Field(
        None, description="Image in the moving space that says where the moving image counts."
    )
    labels: Name | None = Field(
        None,
        description="Label image in the fixed space that is brought onto the moving image; regions are measured by it.",
    )
    moving_labels: Name | None = Field(
        None,
        description="Label image in the moving space with the names of `labels`: it is brought onto the fixed image, and the overlap (Dice) measured.",
    )
    landmarks: Annotated[list[str], PATHS] | None = Field(
        None,
        description="Table of points marked in both images (columns fixed_z ... moving_x in um, or with the ending _voxel; or BigWarp's export), or two tables, of the fixed and of the moving image, separated by a comma; relative to `data_root`.",
    )
    ontology: str | None = Field(
        None,
        description="Table of the labels' names and hierarchy (CSV or Allen JSON), relative to `data_root`.",
    )
    recipe: Name | None = Field(
        None, description="A file of config/recipes/ whose settings hold for this registration."
    )

    @field_validator("landmarks", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        paths = [path.strip() for path in value.split(",")] if isinstance(value, str) else value
        if isinstance(paths, list) and (len(paths) > 2 or not all(paths)):
            raise ValueError(f"wanted one path, or two separated by a comma; found {value!r}")
        return paths

    @field_validator("fixed_more", "moving_more", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        channels = [channel.strip() for channel in value.split(",")] if isinstance(value, str) else value
        if isinstance(channels, list) and not all(channels):
            raise ValueError(f"wanted names of channels separated by commas; found {value!r}")
        return channels

    @field_validator("channel_weights", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        try:
            weights = [float(part) for part in value.split(",")] if isinstance(value, str) else value
        except ValueError:
            weights = []
        if isinstance(weights, list) and not (weights and all(0 < w < float("inf") for w in weights)):
            raise ValueError(f"wanted numbers above 0 separated by commas; found {value!r}")
        return weights

    def further(self, role: Literal["fixed", "moving"]) -> list[tuple[str, str | None]]:
        """The further channels of a role: image and channel (None for its first one)."""
        found: list[tuple[str, str | None]] = []
        for entry in getattr(self, f"{role}_more") or ():
            image, slash, channel = entry.partition("/")
            found.append((image, channel or None) if slash else (getattr(self, role), entry))
        return found


Row = TypeVar("Row", ImageRow, RegistrationRow)


def read_table(path: str, model: type[Row], key: str) -> dict[str, Row]:
    """Rows of a TSV table by their name; empty lines and lines that begin with # do not count."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: the table of {key}s is missing")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; wanted a plain text table") from None
    lines = [
        (number, [cell.strip() for cell in line.split("\t")])
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    if len(lines) < 2:
        raise ConfigError(f"{path}: the table of {key}s has no rows")
    _check_heading(lines[0][1], model, f"{path}: line {lines[0][0]}")
    rows: dict[str, Row] = {}
    for number, cells in lines[1:]:
        where = f"{path}: line {number}"
        if len(cells) != len(lines[0][1]):
            raise ConfigError(
                f"{where}: found {len(cells)} cells; wanted {len(lines[0][1])}, as many as the heading"
            )
        row = parse(model, {k: v for k, v in zip(lines[0][1], cells, strict=True) if v}, where)
        name = getattr(row, key)
        if name in rows:
            raise ConfigError(f"{where}: {key} {name!r} stands twice; names must be different")
        rows[name] = row
    return rows


def _check_heading(columns: list[str], model: type[Model], where: str) -> None:
    known = model.model_fields
    for column in columns:
        if column not in known:
            tabs = "" if len(columns) > 1 else " (columns are separated by tabs)"
            raise ConfigError(f"{where}: there is no column {column!r}{suggest(column, known)}{tabs}")
        if columns.count(column) > 1:
            raise ConfigError(f"{where}: column {column!r} stands twice")
    for column, field in known.items():
        if field.is_required() and column not in columns:
            raise ConfigError(f"{where}: column {column!r} is missing; found {', '.join(columns)}")
