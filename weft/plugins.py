"""Modules from outside that add readers or backends: the setting `plugins`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules, so that they can register what they bring (`weft.readers.register_reader`).

    Parameters
    ----------
    modules
        Names, as in ``import``; the modules must lie where Python looks (installed, or on ``PYTHONPATH``).

    Raises
    ------
    ValueError
        When one cannot be imported.
    """
    for name in modules:
        try:
            import_module(name)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"plugins: module {name!r} cannot be imported ({type(error).__name__}: {reason}); "
                "wanted the name of a module that is installed or lies on PYTHONPATH"
            ) from error
