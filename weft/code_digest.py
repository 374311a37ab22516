"""Digest of the library code that a script imports, so that an edit of a room reruns what uses it."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

PACKAGE = "weft"


def code_digest(root: str | Path, script: str, extra: tuple[str, ...] = ()) -> str:
    """Digest of every module of weft that ``script`` imports, directly or not.

    Comments, docstrings and layout do not count: the digest is taken of the syntax tree.

    Parameters
    ----------
    root
        Folder that holds the package ``weft``.
    script
        Path of the script, relative to ``root``.
    extra
        Modules that are loaded by name at run time (backends, readers) and so are not seen in imports;
        a name that ends in ``.*`` stands for every module of that package. Plug-ins, modules of other
        packages, count by themselves alone, not by what they import of those packages.
    """
    root = Path(root)
    todo = list(_module((root / script).read_bytes())[1])
    for name in extra:
        if name.endswith(".*"):
            package = name[:-2]
            folder = root.joinpath(*package.split("."))
            todo += [f"{package}.{path.stem}" for path in folder.glob("*.py")]
        else:
            todo.append(name)
    found: dict[str, str] = {}
    while todo:
        name = todo.pop()
        path = None if name in found else _file(root, name, plugin=name in extra)
        if path is None:
            continue
        found[name], names = _module(path.read_bytes())
        todo.extend(names)
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file(root: Path, name: str, *, plugin: bool) -> Path | None:
    """The source of a module: of weft's own below ``root``, of a plug-in where Python finds it."""
    if name.startswith(f"{PACKAGE}."):
        path = root.joinpath(*name.split("."))
        path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        return path if path.is_file() else None
    if not plugin:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:
        return None
    is_source = spec is not None and spec.has_location and str(spec.origin).endswith(".py")
    return Path(str(spec.origin)) if spec is not None and is_source else None


@functools.cache
def _module(source: bytes) -> tuple[str, frozenset[str]]:
    """Digest of a module's code and the names that it imports (each with its packages)."""
    tree = ast.parse(source)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        _drop_docstring(node)
    for name in list(names):
        parts = name.split(".")
        names.update(".".join(parts[:i]) for i in range(1, len(parts)))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(names)


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return
    kept = [
        s
        for s in body
        if not (
            isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str)
        )
    ]
    node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
