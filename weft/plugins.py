"""What adds readers and backends from outside: the setting `plugins`, and entry points of installed packages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points


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


@cache
def published(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name; of one name, the first found.

    To find them, the metadata of every installed package are read: that is done once per process.

    Parameters
    ----------
    group
        ``weft.backends`` or ``weft.readers``.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, entry)
    return found
