"""Settings of the backends that come with weft."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from weft.refusals import suggest

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


def check_settings(backend: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that a backend would refuse at its first block.

    Raises
    ------
    ValueError
        For an unknown name, or a value of the wrong type or out of range.
    """
    if not settings:
        return
    wanted = settings_type(backend)
    if wanted is None:
        return
    known = list(wanted.__dataclass_fields__)  # type: ignore[attr-defined]
    for name in settings:
        if name not in known:
            raise ValueError(f"backend {backend} has no setting {name!r}{suggest(name, known)}")
    try:
        wanted(**settings)
    except TypeError as error:
        raise ValueError(f"backend {backend} cannot use {dict(settings)}: {error}") from None
