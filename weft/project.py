"""A project: settings and tables together, checked while the Snakefile is parsed. Imports nothing heavy."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from weft.config import NAME, Config, ConfigError, Model, Name, RegistrationSettings, parse
from weft.registration.orientation import validate_orientation

TILED = ("colm", "tiff_tiles")
PAIR = "pair"


class ImageRow(Model):
    """A row of images.tsv."""

    image: Name = Field(description="Name of the image.")
    source: str = Field(min_length=1, description="File or folder, relative to `data_root`.")
    format: str = Field(
        "auto", description="`colm` or `tiff_tiles` for tiles; else `auto`, or a reader's name."
    )
    orientation: str | None = Field(
        None,
        description="Three letters, one per axis (z, y, x): where the axis points as its index grows (r/l, a/p, s/i).",
    )
    spacing: tuple[float, float, float] | None = Field(
        None, description="Voxel size, um, `z,y,x`; overrides what the file says."
    )
    labels: bool = Field(False, description="`yes` for a label image: never interpolated.")
    channels: list[str] | None = Field(None, description="Names of the channels, comma-separated.")
    options: dict[str, str] = Field(default_factory=dict, description="Further options of the reader, `name=value;name=value`.")
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
            raise ValueError(f"voxel sizes must be three positive numbers `z,y,x` in um; found {value!r}")
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
            raise ValueError(f"options must read name=value;name=value; found {value!r}")
        return {name.strip(): text.strip() for name, text in parts}

    @field_validator("labels", mode="before")
    @classmethod
    def _flag(cls, value: Any) -> Any:
        return {"yes": True, "no": False}.get(value, value) if isinstance(value, str) else value

    @field_validator("orientation")
    @classmethod
    def _code(cls, value: str | None) -> str | None:
        return validate_orientation(value) if value else None

    @property
    def tiled(self) -> bool:
        """Whether the source is tiles that have to be stitched."""
        return self.format in TILED


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
    labels: Name | None = Field(
        None,
        description="Label image in the fixed space that is brought onto the moving image; regions are measured by it.",
    )
    ontology: str | None = Field(
        None,
        description="Table of the labels' names and hierarchy (CSV or Allen JSON), relative to `data_root`.",
    )
    recipe: Name | None = Field(
        None, description="A file of config/recipes/ whose settings hold for this registration."
    )


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
        self.results = self.config.results.rstrip("/")
        if self.config.fixed or self.config.moving:
            self._pair()
        else:
            self._tables()
        self._check_registrations()
        self._check_names()

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
        rows = [("fixed", c.fixed, c.fixed_orientation), ("moving", c.moving, c.moving_orientation)]
        self.images = {
            name: parse(
                ImageRow, {"image": name, "source": source, "orientation": code}, f"{self.where}: {name}"
            )
            for name, source, code in rows
        }
        self.registrations = {PAIR: RegistrationRow(registration=PAIR, fixed="fixed", moving="moving")}

    def _tables(self) -> None:
        if not self.config.images:
            raise ConfigError(
                f"{self.where}: images: found nothing; give a table of images, or fixed and moving"
            )
        self.images = _read_table(self.config.images, ImageRow, "image")
        table = self.config.registrations
        self.registrations = _read_table(table, RegistrationRow, "registration") if table else {}

    def _check_registrations(self) -> None:
        table = self.config.registrations or self.where
        self._settings: dict[str, RegistrationSettings] = {}
        for name, row in self.registrations.items():
            where = f"{table}: registration {name!r}"
            for role in ("fixed", "moving", "labels"):
                image = getattr(row, role)
                if image is not None and image not in self.images:
                    close = difflib.get_close_matches(image, self.images, 1)
                    hint = (
                        f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(self.images)}"
                    )
                    raise ConfigError(
                        f"{where}: {role} names the image {image!r}, which is not in {self.config.images or self.where}{hint}"
                    )
            if row.fixed == row.moving:
                raise ConfigError(
                    f"{where}: fixed and moving are both {row.fixed!r}; an image cannot be registered to itself"
                )
            for role in ("fixed", "moving"):
                if self.images[getattr(row, role)].labels:
                    raise ConfigError(
                        f"{where}: {role} is the label image {getattr(row, role)!r}; wanted an image with intensities"
                    )
            if row.labels and not self.images[row.labels].labels:
                raise ConfigError(
                    f"{where}: labels names {row.labels!r}, which images.tsv does not mark as labels"
                )
            self._settings[name] = self._with_recipe(row, where)

    def _with_recipe(self, row: RegistrationRow, where: str) -> RegistrationSettings:
        fields = set(RegistrationSettings.model_fields)
        plain = {key: value for key, value in self.plain.items() if key in fields}
        if row.recipe:
            path = self.root / "config" / "recipes" / f"{row.recipe}.yaml"
            if not path.is_file():
                known = sorted(p.stem for p in path.parent.glob("*.yaml"))
                raise ConfigError(f"{where}: there is no recipe {row.recipe!r}; there are {', '.join(known)}")
            recipe = yaml.safe_load(path.read_text()) or {}
            plain = _merge(plain, {key: value for key, value in recipe.items() if key in fields})
        return parse(RegistrationSettings, plain, where)

    def _check_names(self) -> None:
        for image in self.config.precomputed:
            if image not in self.images:
                raise ConfigError(
                    f"{self.where}: precomputed names the image {image!r}, which is not in the table of images"
                )
        for name, points in self.config.points.items():
            if points.image not in self.images:
                raise ConfigError(
                    f"{self.where}: points.{name}.image names {points.image!r}, which is not in the table of images"
                )
        for row in self.images.values():
            self.path(row.source)

    # ------------------------------------------------------------------ paths
    def path(self, source: str) -> str:
        """A source's path: as it is when absolute, else below `data_root`.

        Raises
        ------
        ConfigError
            When a relative path leaves `data_root`.
        """
        if source.startswith(f"{self.results}/") or Path(source).is_absolute():
            return source
        root = self.config.data_root
        if ".." in Path(source).parts:
            raise ConfigError(
                f"{self.where}: the path {source!r} leaves data_root {root!r}; give an absolute path if that is meant"
            )
        return source if root == "." else f"{root.rstrip('/')}/{source}"

    def made_by_phantom(self, image: str) -> bool:
        """Whether an image's source is written by the phantom."""
        return self.images[image].source.startswith(f"{self.results}/phantom/")

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

    def stage(self, registration: str, stage: str) -> Any:
        """Settings of one stage."""
        return next(s for s in self.settings(registration).stages if s.name == stage)

    def warped(self, registration: str, direction: Literal["forward", "inverse"]) -> list[str]:
        """Images that travel: the moving image forward; the fixed image and its labels backward."""
        row = self.registrations[registration]
        if direction == "forward":
            return [row.moving]
        return [row.fixed, row.labels] if row.labels else [row.fixed]

    def points(self, registration: str, direction: Literal["forward", "inverse"]) -> list[str]:
        """Tables of points that travel in a direction."""
        row = self.registrations[registration]
        image = row.moving if direction == "forward" else row.fixed
        return [name for name, points in self.config.points.items() if points.image == image]

    def names(self, what: Mapping[str, Any] | list[str]) -> str:
        """A regular expression that matches these names only."""
        return "|".join(what) or f"(?!x)x{NAME}"


def _read_table(path: str, model: type[Model], key: str) -> dict[str, Any]:
    """Rows of a TSV table by their name."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: the table of {key}s is missing")
    with open(path, newline="") as handle:
        lines = [line for line in handle if line.strip() and not line.startswith("#")]
    rows: dict[str, Any] = {}
    for number, raw in enumerate(csv.DictReader(lines, delimiter="\t"), 2):
        if None in raw or None in raw.values():
            raise ConfigError(f"{path}: row {number} does not have as many cells as the heading")
        value = {k.strip(): v.strip() for k, v in raw.items() if v and v.strip()}
        row = parse(model, value, f"{path}: row {number}")
        name = getattr(row, key)
        if name in rows:
            raise ConfigError(f"{path}: row {number}: {key} {name!r} stands twice; names must be different")
        rows[name] = row
    if not rows:
        raise ConfigError(f"{path}: the table of {key}s has no rows")
    return rows


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
