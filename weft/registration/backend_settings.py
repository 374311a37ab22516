"""Settings of the backends that come with weft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.refusals import suggest


def settings_type(backend: str) -> type | None:
    """The dataclass of a backend's settings; None for one from outside, which checks its settings itself."""
    # Imported on demand: both bring compiled code, and most runs leave the settings alone.
    if backend == "native":
        from weft.registration.backends.native_settings import NativeSettings

        return NativeSettings
    if backend == "elastix":
        from weft.registration.backends.elastix import ElastixSettings

        return ElastixSettings
    return None


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
