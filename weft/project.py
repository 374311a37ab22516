"""A project: settings and tables together, checked while the Snakefile is parsed. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from weft.config import Config
from weft.config.base import NAME
from weft.config.registration import RegistrationSettings, Stage
from weft.names import suggest
from weft.overrides import read_overrides
from weft.plugins import import_plugins
from weft.readers import detect_format, tiled_formats
from weft.refusals import ConfigError, parse
from weft.registration.backend_settings import checked_settings
from weft.registration.contract import SEVERAL_CHANNELS, one_channel
from weft.rows import ImageRow, RegistrationRow, read_table

PAIR = "pair"
DARKS = ("empty_tiles", "regress")  # sources of the dark that are no path
SIDES: tuple[Literal["fixed", "moving"], ...] = ("fixed", "moving")


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
        plugins = self.plain.get("plugins")
        try:
            # They may bring backends that the stages name, and formats that the table of images names.
            if isinstance(plugins, list) and all(isinstance(name, str) for name in plugins):
                import_plugins(plugins)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        self.config: Config = parse(Config, self.plain, where)
        self.results = self.config.results.rstrip("/")
        self.images: dict[str, ImageRow]
        self.registrations: dict[str, RegistrationRow]
        if self.config.fixed or self.config.moving:
            self._pair()
        else:
            self._tables()
        self._settings = {name: self._check(row) for name, row in self.registrations.items()}
        self._check_names()
        self.overrides: dict[str, list[dict[str, Any]]] = {}
        if self.config.overrides:
            self.overrides = read_overrides(self.config.overrides, self.tiled)
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
        self.images = read_table(c.images, ImageRow, "image")
        self.registrations = (
            read_table(c.registrations, RegistrationRow, "registration") if c.registrations else {}
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
        self._check_further(row, where)
        settings = self._with_recipe(row, where)
        self._check_channels(row, settings, where)
        return settings

    def _check_further(self, row: RegistrationRow, where: str) -> None:
        """Refuse further channels that are unknown, without a partner, or without a weight."""
        for role in SIDES:
            for name, channel in row.further(role):
                if name not in self.images:
                    raise ConfigError(
                        f"{where}: {role}_more names the image {name!r}, which is not in "
                        f"{self.config.images or self.where}{suggest(name, self.images)}"
                    )
                if self.images[name].labels:
                    raise ConfigError(
                        f"{where}: {role}_more names the label image {name!r}; wanted one with intensities"
                    )
                self._check_channel(self.images[name], channel, f"{where}: {role}_more")
        fixed, moving = (len(row.further(role)) for role in SIDES)
        if fixed != moving:
            raise ConfigError(
                f"{where}: fixed_more names {fixed} channels and moving_more {moving}; wanted as many, as they are compared in pairs"
            )
        if row.channel_weights and len(row.channel_weights) != 1 + fixed:
            raise ConfigError(
                f"{where}: channel_weights holds {len(row.channel_weights)} numbers for {1 + fixed} channels; wanted one for each"
            )

    def _check_channels(self, row: RegistrationRow, settings: RegistrationSettings, where: str) -> None:
        """Refuse stages whose backend cannot compare the channels of a registration."""
        count = 1 + len(row.further("fixed"))
        for number, stage in enumerate(settings.stages):
            at = f"{where}: stages[{number}]"
            if count > 1 and one_channel(stage.backend):
                raise ConfigError(
                    f"{at}: backend {stage.backend!r} compares one channel, and fixed_more adds {count - 1}; "
                    f"wanted {' or '.join(SEVERAL_CHANNELS)}, or no fixed_more and moving_more"
                )
            weights = stage.settings.get("channel_weights")
            if weights is not None and len(weights) != count:
                raise ConfigError(
                    f"{at}.settings: channel_weights holds {len(weights)} numbers for {count} channels; wanted one for each"
                )

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
        else:
            where = self.where
        settings = parse(RegistrationSettings, plain, where)
        for number, stage in enumerate(settings.stages):
            try:
                stage.settings = checked_settings(stage.backend, stage.settings, self.path)
            except ValueError as error:
                raise ConfigError(f"{where}: stages[{number}].settings: {error}") from None
        return settings

    def _check_names(self) -> None:
        named = [(f"precomputed[{n}]", image) for n, image in enumerate(self.config.precomputed)]
        named += [(f"isotropic.{image}", image) for image in self.config.isotropic]
        named += [(f"bias.images[{n}]", image) for n, image in enumerate(self.config.bias.images)]
        named += [(f"points.{name}.image", points.image) for name, points in self.config.points.items()]
        for field, image in named:
            if image not in self.images:
                raise ConfigError(
                    f"{self.where}: {field} names the image {image!r}, "
                    f"which is not in the table of images{suggest(image, self.images)}"
                )
        for n, image in enumerate(self.config.bias.images):
            if self.images[image].labels:
                raise ConfigError(
                    f"{self.where}: bias.images[{n}] names the label image {image!r}; wanted one with intensities"
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
