"""How a setting that cannot be used is refused: in one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from weft.names import suggest

M = TypeVar("M", bound=BaseModel)
# What the types of problems that pydantic reports ask for, by their first word.
_PLAIN = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list of three values (z, y, x)",
    "dict": "a mapping of names to values",
    "model": "a mapping of settings",
}
# The same for texts of which only some will do.
_PATTERNS = {
    r"^x[1-9][0-9]*$": "a factor such as x4",
    r"^[0-9]+\.[0-9]+\.[0-9]+$": "the name of a block such as '0.1.2'",
}
_TAG = re.compile(r"(\[key\]|(function|literal|constrained|tuple|int|str|float|list)\b.*)$")


class ConfigError(ValueError):
    """A setting that cannot be used, in one sentence."""


def parse(model: type[M], value: Any, where: str) -> M:
    """A model made of plain data.

    Parameters
    ----------
    model
        Type of the settings.
    value
        Plain data: dicts, lists, numbers, texts.
    where
        What the sentence begins with: a file, or a row of it.

    Raises
    ------
    ConfigError
        In one sentence: where, which setting, what was found, what is wanted.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(_sentence(model, error, where)) from None


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _sentence(model: type[BaseModel], error: ValidationError, where: str) -> str:
    """The first problem of a validation error as one sentence."""
    problems = error.errors()
    first = problems[0]
    if first["type"] == "missing":
        # What is missing may be there, misspelt.
        beside = (
            p for p in problems if p["type"] == "extra_forbidden" and p["loc"][:-1] == first["loc"][:-1]
        )
        first = next(beside, first)
    path = _path(first["loc"])
    name = _dotted(path) or "the settings"
    kind = first["type"]
    if kind == "extra_forbidden":
        path = [*_path(first["loc"][:-1]), first["loc"][-1]]
        return f"{where}: there is no setting {_dotted(path)!r}{_belongs(model, path)}"
    if kind == "value_error":
        return f"{where}: {name}: {first['msg'].removeprefix('Value error, ')}"
    if kind == "missing" and isinstance(path[-1], str):
        return f"{where}: {name} is missing; wanted a value"
    if kind in ("missing", "too_long"):  # of a tuple
        name = _dotted(path[:-1] if kind == "missing" else path)
        return f"{where}: {name}: wanted three values (z, y, x); found {_shown(first['input'])}"
    # Every member of a union reports a problem of its own at the same place.
    wanted = dict.fromkeys(_wanted(other) for other in problems if _path(other["loc"]) == path)
    return f"{where}: {name}: wanted {' or '.join(wanted)}; found {_shown(first['input'])}"


def _wanted(problem: Any) -> str:
    """What a field takes, from one problem that pydantic reports."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "literal_error":
        return context["expected"]
    if kind == "greater_than":
        return f"a number greater than {context['gt']:g}"
    if kind == "greater_than_equal":
        return f"a number of at least {context['ge']:g}"
    if kind == "less_than_equal":
        return f"a number of at most {context['le']:g}"
    if kind == "string_too_short":
        return "a text that is not empty"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"a text that matches {context['pattern']}")
    return _PLAIN.get(kind.split("_")[0], problem["msg"])


def _belongs(model: type[BaseModel], path: list[str | int]) -> str:
    """The end of a sentence on an unknown setting: what was meant, or where a setting of that name is."""
    from weft.rows import ImageRow, RegistrationRow  # they are parsed with what this module offers

    name = str(path[-1])
    known = list(_model_at(model, path[:-1]).model_fields)
    sections = [
        section
        for section, field in model.model_fields.items()
        for part in models_in(field.annotation)
        if name in part.model_fields
    ]
    tables: dict[str, type[BaseModel]] = {"images.tsv": ImageRow, "registrations.tsv": RegistrationRow}
    columns = [table for table, row in tables.items() if len(path) == 1 and name in row.model_fields]
    if columns and not sections:
        return f"; it is a column of {' and of '.join(columns)}"
    if sections and not difflib.get_close_matches(name, known, 1):
        return f"; it belongs to {sections[0]!r}"
    return suggest(name, known)


def _model_at(model: type[BaseModel], path: list[str | int]) -> type[BaseModel]:
    """The model that the settings at a path are of."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(models_in(field.annotation), model)
    return model


def _path(location: tuple[str | int, ...]) -> list[str | int]:
    """A location as pydantic gives it, without the members of unions and the marks of keys."""
    return [part for part in location if isinstance(part, int) or not _TAG.match(part)]


def _dotted(path: list[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
