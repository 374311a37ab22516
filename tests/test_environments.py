"""The conda environments of the rules: each installs what is imported in it, and nothing else.

Runs do not tell: Snakemake lets its jobs also find what is installed beside itself.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from workflow_jobs import plan_jobs
from workflow_project import make_project

from weft.readers import _BUILT_IN, _TILED
from weft.registration.contract import backend_module

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = sorted(path.stem for path in (ROOT / "envs").glob("*.yaml"))
# Settings that between them ask for every engine; a stage is called as its backend.
SETTINGS = (
    {"stages": ["native", "greedy", "demons"]},
    {"stages": ["ants", "elastix"], "affine": {"method": "elastix"}, "illumination": {"method": "basic"}},
)
# The readers that functions load by name.
READERS = {
    "weft.steps.sources.open_tiles": [_BUILT_IN[name][0] for name in _TILED],
    "weft.steps.import_image.import_image": [module for module, _ in _BUILT_IN.values()],
}
# Packages of an engine, and the environment that it has of its own: asked for by settings, they are imported in no other.
ENGINES = {"ants": "ants", "basicpy": "basic", "itk": "elastix"}
# Distributions that are called otherwise than what is imported.
DISTRIBUTIONS = {"ants": "antspyx", "cloudvolume": "cloud-volume", "itk": "itk-elastix", "yaml": "pyyaml"}
# What distributions load for what weft asks of them, without requiring it in every case.
LOADED = {"basicpy": "torch", "cloud-volume": "compresso", "pandas": "pyarrow", "tifffile": "imagecodecs"}


def plain(name: str) -> str:
    """A distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(lines: list[str]) -> dict[str, str]:
    """Versions that lines such as ``name==version`` ask for."""
    found = dict(line.replace(" ", "").split("==") for line in lines)
    assert len(found) == len(lines)
    return {plain(name): version for name, version in found.items()}


def pins(environment: str) -> dict[str, str]:
    """Versions of what an environment installs."""
    *conda, pip = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text())["dependencies"]
    assert conda == ["python =3.11", "pip"]
    return versions(pip["pip"])


def requirements() -> dict[str, str]:
    """Versions of what requirements.txt names."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return versions([line for line in lines if not line.startswith("#")])


# ---------------------------------------------------------------------------------- what is imported
def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from nodes(node)


@cache
def imports(path: Path) -> frozenset[str]:
    """What a file imports, at its top and inside functions; a name that is taken from a module follows its dot."""
    found: set[str] = set()
    for node in nodes(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


@cache
def files(name: str) -> tuple[Path, ...]:
    """Files of weft that are run when a name is imported: packages on the way, and the module."""
    parts = name.split(".")
    places = [ROOT.joinpath(*parts[:end]) for end in range(1, len(parts) + 1)]
    return tuple(
        path
        for place in places
        for path in (place.with_suffix(".py"), place / "__init__.py")
        if path.is_file()
    )


def imported(script: str, by_name: Iterable[str]) -> dict[str, Path]:
    """Packages that a script imports, over weft's modules, some loaded by name; each with a file that does."""
    start = ROOT / "scripts" / f"{script}.py"
    todo = [(start, name) for name in (*imports(start), *by_name)]
    found: dict[str, Path] = {}
    seen: set[Path] = set()
    while todo:
        file, name = todo.pop()
        package = name.split(".")[0]
        todo += [(file, reader) for reader in READERS.get(name, [])]
        if package == "weft":
            new = set(files(name)) - seen
            seen |= new
            todo += [(path, other) for path in new for other in imports(path)]
        elif package not in sys.stdlib_module_names:
            found.setdefault(package, file)
    return found


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> set[tuple[str, str, str | None]]:
    """Rule, environment, and module of the backend (of rules that have one), of all that settings can ask for."""
    found = set()
    for settings in SETTINGS:
        stages = [{"name": name, "level": 20, "backend": name} for name in settings["stages"]]
        project = make_project(
            tmp_path_factory.mktemp("engines") / "project", **{**settings, "stages": stages}
        )
        planned = plan_jobs(project.folder)
        for job in planned:
            stage = getattr(job.wildcards, "stage", None)
            environment = Path(job.conda_env_spec.file.get_path_or_uri(secret_free=True))
            assert environment.samefile(ROOT / "envs" / environment.name)
            found.add((job.rule.name, environment.stem, stage and backend_module(stage)))
        for rule in planned[0].rule.workflow.rules:
            if rule.script and not callable(rule.conda_env):  # also those that these projects do not ask for
                found.add((rule.name, Path(rule.conda_env).stem, None))
    return found


@pytest.fixture(scope="module")
def wanted(jobs) -> dict[str, dict[str, Path]]:
    """Distributions that each environment must hold, each with a file that imports it."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for rule, environment, backend in jobs:
        for package, file in imported(rule, [backend] if backend else []).items():
            if ENGINES.get(package, environment) == environment:
                name = DISTRIBUTIONS.get(package, plain(package))
                found[environment] |= {LOADED.get(name, name): file, name: file}
    return found


# ---------------------------------------------------------------------------------- tests
def test_every_rule_and_every_environment_was_looked_at(jobs):
    assert {rule for rule, _, _ in jobs} == {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert {environment for _, environment, _ in jobs} == set(ENVIRONMENTS)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_installs_what_is_imported_in_it_and_nothing_else(wanted, environment):
    installed = set(pins(environment))
    missing = {
        name: str(file.relative_to(ROOT))
        for name, file in wanted[environment].items()
        if name not in installed
    }
    assert not missing
    assert not installed - set(wanted[environment])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_version_differs_from_requirements_only_where_the_environment_says_why(environment):
    everywhere = requirements()
    reason = (ROOT / "envs" / f"{environment}.yaml").read_text().split("\nchannels:")[0]
    for name, version in pins(environment).items():
        assert everywhere.get(name) == version or re.search(rf"\b{name}\b", reason), name


def test_requirements_name_what_is_imported_anywhere():
    files = [*ROOT.glob("weft/**/*.py"), *ROOT.glob("scripts/*.py")]
    names = {name.split(".")[0] for file in files for name in imports(file)}
    packages = names - sys.stdlib_module_names - {"weft"}
    missing = {DISTRIBUTIONS.get(name, plain(name)) for name in packages} - set(requirements())
    assert missing == {"antspyx", "basicpy"}  # they refuse versions of the rest
