"""A project: settings and tables together, checked while the Snakefile is parsed. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, WithJsonSchema, field_validator

from weft.config import CODE, NAME, Channel, Config, Model, Name, RegistrationSettings, Stage
from weft.plugins import import_plugins
from weft.readers import detect_format, formats, tiled_formats
from weft.refusals import ConfigError, parse, suggest
from weft.registration.backend_settings import check_settings
from weft.registration.orientation import validate_orientation

PAIR = "pair"
# What the cells of a table look like before they are read.
NUMBERS = WithJsonSchema({"type": "string", "pattern": r"^[^,]+,[^,]+,[^,]+$", "examples": ["5,1.8,1.8"]})
TEXTS = WithJsonSchema({"type": "string", "examples": ["autofluorescence,signal"]})
PAIRS = WithJsonSchema({"type": "string", "examples": ["check=full"]})
PATHS = WithJsonSchema({"type": "string", "examples": ["landmarks.csv", "fixed.csv,moving.csv"]})
FLAG = WithJsonSchema({"type": "string", "enum": ["yes", "no"]})
DARKS = ("empty_tiles", "regress")  # sources of the dark that are no path


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


Row = TypeVar("Row", ImageRow, RegistrationRow)


class Project:
    """All that the rules ask of the configuration.

    Parameters
    ----------
    config
        Plain settings, as Snakemake hands them over.
    root
        Folder of the workflow (recipes lie below it).
    where
        How errors name the settings' source.

    Raises
    ------
    ConfigError
        In one sentence.
    """

    def __init__(self, config: Mapping[str, Any], root: str | Path, where: str = "config") -> None:
        self.root = Path(root)
        self.where = where
        self.plain = {key: value for key, value in config.items() if value is not None}
        self.config: Config = parse(Config, self.plain, where)
        try:
            import_plugins(self.config.plugins)  # they may bring formats that the table of images names
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        self.results = self.config.results.rstrip("/")
        self.images: dict[str, ImageRow]
        self.registrations: dict[str, RegistrationRow]
        if self.config.fixed or self.config.moving:
            self._pair()
        else:
            self._tables()
        self._settings = {name: self._check(row) for name, row in self.registrations.items()}
        self._check_names()
        for field, source in self._sources():
            self._check_inside(field, source)

    # ------------------------------------------------------------------ tables
    def _pair(self) -> None:
        c = self.config
        if not (c.fixed and c.moving):
            raise ConfigError(
                f"{self.where}: fixed and moving must be given together; found only {'fixed' if c.fixed else 'moving'}"
            )
        if c.images or c.registrations:
            raise ConfigError(
                f"{self.where}: fixed and moving cannot be given beside tables; remove images and registrations"
            )
        if c.fixed == c.moving:
            raise ConfigError(
                f"{self.where}: fixed and moving are both {c.fixed!r}; an image cannot be registered to itself"
            )
        self.images = {
            "fixed": ImageRow(image="fixed", source=c.fixed, orientation=c.fixed_orientation),
            "moving": ImageRow(image="moving", source=c.moving, orientation=c.moving_orientation),
        }
        self.registrations = {PAIR: RegistrationRow(registration=PAIR, fixed="fixed", moving="moving")}

    def _tables(self) -> None:
        c = self.config
        for name in ("fixed_orientation", "moving_orientation"):
            if getattr(c, name):
                raise ConfigError(
                    f"{self.where}: {name} is given without fixed and moving; use the table of images"
                )
        if not c.images:
            raise ConfigError(
                f"{self.where}: images: found nothing; wanted a table of images, or fixed and moving"
            )
        self.images = _read_table(c.images, ImageRow, "image")
        self.registrations = (
            _read_table(c.registrations, RegistrationRow, "registration") if c.registrations else {}
        )

    # ------------------------------------------------------------------ checks
    def _check(self, row: RegistrationRow) -> RegistrationSettings:
        """Refuse a registration that makes no sense; its settings, its recipe included."""
        where = f"{self.config.registrations or self.where}: registration {row.registration!r}"
        table = self.config.images or self.where
        for role in ("fixed", "moving", "fixed_mask", "moving_mask", "labels", "moving_labels"):
            image = getattr(row, role)
            if image is not None and image not in self.images:
                raise ConfigError(
                    f"{where}: {role} names the image {image!r}, which is not in {table}{suggest(image, self.images)}"
                )
        if row.fixed == row.moving:
            raise ConfigError(
                f"{where}: fixed and moving are both {row.fixed!r}; an image cannot be registered to itself"
            )
        for role in ("fixed", "moving"):
            image = self.images[getattr(row, role)]
            if image.labels:
                raise ConfigError(
                    f"{where}: {role} is the label image {image.image!r}; wanted an image with intensities"
                )
            self._check_channel(image, getattr(row, f"{role}_channel"), f"{where}: {role}_channel")
        for role in ("labels", "moving_labels"):
            name = getattr(row, role)
            if name and not self.images[name].labels:
                raise ConfigError(
                    f"{where}: {role} names {name!r}, which {table} does not mark as labels; "
                    "wanted an image with `yes` in the column labels"
                )
        if row.moving_labels and not row.labels:
            raise ConfigError(
                f"{where}: moving_labels is {row.moving_labels!r} and labels is empty; "
                "wanted the fixed image's labels there, to compare with"
            )
        return self._with_recipe(row, where)

    def _with_recipe(self, row: RegistrationRow, where: str) -> RegistrationSettings:
        fields = RegistrationSettings.model_fields
        plain = {key: value for key, value in self.plain.items() if key in fields}
        if row.recipe:
            path = self.root / "config" / "recipes" / f"{row.recipe}.yaml"
            if not path.is_file():
                known = sorted(p.stem for p in path.parent.glob("*.yaml"))
                raise ConfigError(f"{where}: there is no recipe {row.recipe!r}{suggest(row.recipe, known)}")
            where = f"{where}: recipe {row.recipe!r}"
            plain = _merge(plain, yaml.safe_load(path.read_text()) or {})
        settings = parse(RegistrationSettings, plain, where)
        for number, stage in enumerate(settings.stages):
            try:
                check_settings(stage.backend, stage.settings)
            except ValueError as error:
                raise ConfigError(f"{where}: stages[{number}].settings: {error}") from None
        return settings

    def _check_names(self) -> None:
        named = [(f"precomputed[{n}]", image) for n, image in enumerate(self.config.precomputed)]
        named += [(f"points.{name}.image", points.image) for name, points in self.config.points.items()]
        for field, image in named:
            if image not in self.images:
                raise ConfigError(
                    f"{self.where}: {field} names the image {image!r}, "
                    f"which is not in the table of images{suggest(image, self.images)}"
                )
        for n, image in enumerate(self.config.terastitcher):
            if image not in self.tiled:
                raise ConfigError(
                    f"{self.where}: terastitcher[{n}] names {image!r}, which is not stitched from tiles"
                    f"{suggest(image, self.tiled)}"
                )
        for name in self.tiled:
            self._check_channel(self.images[name], self.config.links.channel, f"{self.where}: links.channel")

    def _check_channel(self, image: ImageRow, channel: str | None, where: str) -> None:
        """Refuse a channel that the table of images does not name; what a file holds is seen when it is opened."""
        if channel is not None and image.channels and channel not in image.channels:
            raise ConfigError(
                f"{where}: image {image.image!r} has no channel {channel!r}{suggest(channel, image.channels)}"
            )

    def _sources(self) -> Iterator[tuple[str, str]]:
        """Every path that the settings name, with where it is named."""
        table = self.config.images or self.where
        for name, row in self.images.items():
            yield f"{table}: image {name!r}: source", row.source
            if isinstance(row.dark, str) and row.dark not in DARKS:
                yield f"{table}: image {name!r}: dark", row.dark
        for name, registration in self.registrations.items():
            if registration.ontology:
                yield f"{self.config.registrations}: registration {name!r}: ontology", registration.ontology
            for path in registration.landmarks or ():
                yield f"{self.config.registrations}: registration {name!r}: landmarks", path
        for name in self.registrations:
            start = self.settings(name).affine.start
            for path in start.files if start else ():
                # The affine of another registration is made by the workflow.
                if not path.startswith(f"{self.results}/"):
                    yield f"{self.where}: registration {name!r}: affine.start", path
        for name, points in self.config.points.items():
            yield f"{self.where}: points.{name}.path", points.path
        light = self.config.illumination
        if isinstance(light.dark, str) and light.dark not in DARKS:
            yield f"{self.where}: illumination.dark", light.dark
        if light.profile:
            yield f"{self.where}: illumination.profile", light.profile

    def _check_inside(self, field: str, source: str) -> None:
        if self._phantom_makes(source) and not self.config.phantom:
            raise ConfigError(f"{field}: {source!r} is made by the phantom, and `phantom` is not set")
        if ".." in Path(source).parts and not Path(source).is_absolute():
            raise ConfigError(
                f"{field}: the path {source!r} leaves data_root {self.config.data_root!r}; "
                "give an absolute path if that is meant"
            )

    def check_sources(self) -> None:
        """Refuse sources that are missing, of an unknown format, or without a voxel size, before any job.

        Raises
        ------
        ConfigError
            In one sentence.
        """
        for field, source in self._sources():
            path = self.path(source)
            if not self._phantom_makes(source) and not Path(path).exists():
                raise ConfigError(f"{field}: there is no file or folder {path!r}")
        table = self.config.images or self.where
        for name, row in self.images.items():
            path = self.path(row.source)
            if row.format == "auto" and not self.made_by_phantom(name):
                try:
                    form = detect_format(path)
                except ValueError as error:
                    raise ConfigError(f"{table}: image {name!r}: source: {error}") from None
                if form == "tiff_stack" and Path(path).is_dir() and not row.spacing:
                    raise ConfigError(
                        f"{table}: image {name!r}: spacing is missing; a folder of TIFF planes does not state it, "
                        "wanted three positive numbers z,y,x in um"
                    )
                if form in tiled_formats():
                    raise ConfigError(
                        f"{table}: image {name!r}: format is missing; {path!r} holds tiles, wanted {form!r}"
                    )

    # ------------------------------------------------------------------ paths
    def path(self, source: str) -> str:
        """A source's path: as it is when absolute or below the results, else below `data_root`."""
        root = self.config.data_root
        if root == "." or Path(source).is_absolute() or source.startswith(f"{self.results}/"):
            return source
        return f"{root.rstrip('/')}/{source}"

    def made_by_phantom(self, image: str) -> bool:
        """Whether an image's source is written by the phantom."""
        return self._phantom_makes(self.images[image].source)

    def _phantom_makes(self, source: str) -> bool:
        return source.startswith(f"{self.results}/phantom/")

    # ------------------------------------------------------------------ what the rules ask
    @property
    def tiled(self) -> list[str]:
        """Images that are stitched from tiles."""
        return [name for name, row in self.images.items() if row.tiled]

    def settings(self, registration: str) -> RegistrationSettings:
        """Settings of one registration, its recipe included."""
        return self._settings[registration]

    def stages(self, registration: str) -> list[str]:
        """Names of its stages, coarse to fine."""
        return [stage.name for stage in self.settings(registration).stages]

    def stage(self, registration: str, stage: str) -> Stage:
        """Settings of one stage."""
        return next(s for s in self.settings(registration).stages if s.name == stage)

    def warped(self, registration: str, direction: Literal["forward", "inverse"]) -> list[str]:
        """Images that travel, each with its labels: the moving image forward, the fixed image backward."""
        row = self.registrations[registration]
        images = (row.moving, row.moving_labels) if direction == "forward" else (row.fixed, row.labels)
        return [image for image in images if image]

    def points(self, registration: str, direction: Literal["forward", "inverse"]) -> list[str]:
        """Tables of points that travel in a direction."""
        row = self.registrations[registration]
        image = row.moving if direction == "forward" else row.fixed
        return [name for name, points in self.config.points.items() if points.image == image]

    def names(self, what: Mapping[str, Any] | list[str]) -> str:
        """A regular expression that matches these names only."""
        return "|".join(what) or f"(?!x)x{NAME}"


def _read_table(path: str, model: type[Row], key: str) -> dict[str, Row]:
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


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with what ``over`` says; dicts are merged, all else replaced."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = (
            _merge(merged[key], value)
            if isinstance(value, dict) and isinstance(merged.get(key), dict)
            else value
        )
    return merged
