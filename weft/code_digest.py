"""Digest of the library code that a script imports, so that an edit of a room reruns what uses it."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

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
    todo = list(_module((root / script).read_bytes()).imported)
    for name in extra:
        if name.endswith(".*"):
            package = name[:-2]
            folder = root.joinpath(*package.split("."))
            todo += [f"{package}.{path.stem}" for path in folder.glob("*.py")]
        else:
            todo.append(name)
    followed: set[str] = set()
    found: dict[str, _Module] = {}
    while todo:
        name = todo.pop()
        if name in followed:
            continue
        followed.add(name)
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            here = ".".join(parts[:end])
            if here not in found:
                path = _file(root, here, plugin=here in extra)
                if path is None:
                    continue
                found[here] = _module(path.read_bytes())
            module = found[here]
            if module.contents is None:
                todo.extend(module.imported)
            elif here == name:
                todo.extend(module.contents.values())
            elif parts[end] in module.contents:
                todo.append(module.contents[parts[end]])
    text = "\n".join(f"{name} {module.digest}" for name, module in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Module(NamedTuple):
    """What the digest needs to know of a module.

    ``imported`` are the names that it imports, each after its module. ``contents`` is for a module that only
    hands names on (the table of contents of a package): where each comes from; only those asked for count.
    """

    digest: str
    imported: frozenset[str]
    contents: dict[str, str] | None


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
def _module(source: bytes) -> _Module:
    """A module's digest and the names that it imports."""
    tree = ast.parse(source)
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
        _drop_docstring(node)
    return _Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(imported), _contents(tree))


def _contents(tree: ast.Module) -> dict[str, str] | None:
    """Where a module that does nothing but hand names on has them from; None for any other."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found.update((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"):
            return None
    return found


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
