"""The reference of all settings, and the schemas of the tables: current, complete, and kept by the examples."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from test_config import EXAMPLES, ROOT

from weft.config import Config
from weft.reference import reference, write_reference


def test_the_reference_is_current():
    for name, text in reference().items():
        path = ROOT / name
        assert path.is_file(), f"{name} is missing; run `make docs`"
        assert path.read_text(encoding="utf-8") == text, f"{name} is not current; run `make docs`"


def test_the_reference_is_written(tmp_path):
    written = write_reference(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in written} == set(reference())
    assert all(path.is_file() for path in written)


def test_the_reference_names_every_setting():
    text = reference()["config/README.md"]
    for name in _properties(Config.model_json_schema()):
        assert f"`{name}`" in text


def _properties(schema) -> set[str]:
    parts = [schema, *schema.get("$defs", {}).values()]
    return {name for part in parts for name in part.get("properties", {})}


@pytest.mark.parametrize("path", [p for p in EXAMPLES if "recipes" not in str(p)], ids=lambda path: path.stem)
def test_the_schemas_accept_the_examples(path):
    plain = yaml.safe_load(path.read_text())
    jsonschema.validate(plain, json.loads((ROOT / "config/schemas/config.schema.json").read_text()))
    for table in ("images", "registrations"):
        if table in plain:
            schema = json.loads((ROOT / f"config/schemas/{table}.schema.json").read_text())
            for cells in _cells(ROOT / plain[table]):
                jsonschema.validate(cells, schema)


@pytest.mark.parametrize(
    "cells",
    [
        {"image": "a b", "source": "x"},
        {"image": "a"},
        {"image": "a", "source": "x", "orientation": "xyz"},
        {"image": "a", "source": "x", "spacing": "1,2"},
        {"image": "a", "source": "x", "labels": "perhaps"},
        {"image": "a", "source": "x", "colour": "red"},
    ],
)
def test_the_schema_of_images_refuses(cells):
    schema = json.loads((ROOT / "config/schemas/images.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cells, schema)


def _cells(path: Path) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    return [{name: cell for name, cell in row.items() if cell} for row in rows]
