"""Settings of the backends that come with weft."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from weft.names import suggest

SETTINGS = {
    "native": "weft.registration.backends.native_settings:NativeSettings",
    "elastix": "weft.registration.backends.elastix:ElastixSettings",
    "greedy": "weft.registration.backends.greedy:GreedySettings",
    "demons": "weft.registration.backends.demons:DemonsSettings",
    "ants": "weft.registration.backends.ants:AntsSettings",
}


def settings_type(backend: str) -> type | None:
    """The dataclass of a backend's settings; None for one from outside, which checks its settings itself."""
    if backend not in SETTINGS:
        return None
    # Imported on demand: they bring compiled code, and most runs leave the settings alone.
    module, _, name = SETTINGS[backend].partition(":")
    return getattr(importlib.import_module(module), name)


def checked_settings(
    backend: str, settings: Mapping[str, Any], path: Callable[[str], str] = str
) -> dict[str, Any]:
    """The settings of a backend with the contents of the files that they name; refused as at its first block.

    Parameters
    ----------
    backend, settings
        Of a stage.
    path
        Where a file lies that the settings name.

    Raises
    ------
    ValueError
        For an unknown name, a value of the wrong type or out of range, or a file that cannot be used.
    """
    wanted = settings_type(backend) if settings else None
    if wanted is None:
        return dict(settings)
    known = list(wanted.__dataclass_fields__)  # type: ignore[attr-defined]
    for name in settings:
        if name not in known:
            raise ValueError(f"backend {backend} has no setting {name!r}{suggest(name, known)}")
    try:
        wanted(**settings)
    except TypeError as error:
        raise ValueError(_of_wrong_type(backend, wanted, settings) or str(error)) from None
    with_files = getattr(wanted, "with_files", None)
    return dict(settings) if with_files is None else with_files(settings, path)


def _of_wrong_type(backend: str, wanted: type, settings: Mapping[str, Any]) -> str | None:
    """The sentence about the setting that is of the wrong type; None where each is right by itself."""
    for name, value in settings.items():
        try:
            wanted(**{name: value})
        except TypeError:
            default = wanted.__dataclass_fields__[name].default  # type: ignore[attr-defined]
            return f"setting {name} of backend {backend} is {value!r}; wanted a value like its default, {default!r}"
        except ValueError:
            pass  # of the right type, but not alone
    return None
