"""What a deformable backend takes and gives, and how a backend is found by name."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from weft.grid import Grid
from weft.names import suggest
from weft.plugins import published

BUILTIN = {
    "native": "weft.registration.backends.native:register",
    "elastix": "weft.registration.backends.elastix:register",
    "greedy": "weft.registration.backends.greedy:register",
    "demons": "weft.registration.backends.demons:register",
    "ants": "weft.registration.backends.ants:register",
}
ENTRY_POINTS = "weft.backends"
_registered: dict[str, str] = {}  # name -> module:function
SEVERAL_CHANNELS = ("native",)  # of weft's own backends; others may
PROCESS_MB = 400  # memory of a process with compiled code and no block
OWN_PROCESS_MB = 300  # of a worker process of a backend, with its engine

Masks = tuple[np.ndarray | None, np.ndarray | None]


@dataclass(frozen=True)
class Initial:
    """The transform a block starts from: x -> A(x + u(x)), fixed space to moving space (pull-back).

    Parameters
    ----------
    affine
        A: (4, 4) float64, um, acting on homogeneous points (z, y, x, 1).
    field
        u: (3, z, y, x) float32, um, components z, y, x; None means zero.
    field_grid
        Where the samples of `field` lie in the fixed space; it covers the block. A point outside takes
        the value at the border.

    Raises
    ------
    ValueError
        When the affine is no invertible (4, 4) matrix, or field and grid do not go together.
    """

    affine: np.ndarray
    field: np.ndarray | None = None
    field_grid: Grid | None = None

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, np.float64)
        object.__setattr__(self, "affine", affine)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"the initial affine is of shape {affine.shape}; wanted a finite (4, 4) matrix")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError("the initial affine is singular; wanted an invertible (4, 4) matrix")
        if (self.field is None) != (self.field_grid is None):
            raise ValueError("the initial field and its grid are given together or not at all")
        if (
            self.field is not None
            and self.field_grid is not None
            and self.field.shape != (3, *self.field_grid.shape)
        ):
            raise ValueError(
                f"the initial field is of shape {self.field.shape}; wanted (3, *{self.field_grid.shape}), its grid's"
            )

    @classmethod
    def identity(cls) -> Initial:
        """The start that moves nothing."""
        return cls(np.eye(4))


@dataclass(frozen=True)
class Result:
    """What a backend found for one block.

    Parameters
    ----------
    displacement
        The *total* u, (3, z, y, x) float32, um, components z, y, x: the start field is contained in it,
        the affine is not (phi(x) = A(x + u(x)) with the affine of `Initial`).
    grid
        Where the samples of `displacement` lie, in the fixed space (``fixed_grid.coarsen((2, 2, 2))`` for
        ``native``).
    metrics
        One dict per level, coarsest first: ``level`` (resolution: halvings of the block), ``iterations``,
        ``before`` and ``after`` (the backend's similarity at the level's start and end).
    iterations
        Sum over the levels.
    metric_before, metric_after
        Similarity (larger is better) under the start transform and under the result, measured with the
        same weights on the finest level used. Both 0 when the block holds nothing to compare.
    """

    displacement: np.ndarray
    grid: Grid
    metrics: list[dict[str, Any]] = field(default_factory=list)
    iterations: int = 0
    metric_before: float = 0.0
    metric_after: float = 0.0

    @cached_property
    def minimal_jacobian(self) -> float:
        """Smallest Jacobian determinant of x -> x + u(x) on `grid` (`weft.transforms.folds.minimal_jacobian`)."""
        # Compiled code, which settings alone need not load.
        from weft.transforms.folds import minimal_jacobian

        return minimal_jacobian(self.displacement, self.grid.spacing)


class Backend(Protocol):
    """A deformable registration of one block.

    A backend is one function with this signature. To plug one in from outside, publish it in the
    entry-point group ``weft.backends`` of an installed package::

        [project.entry-points."weft.backends"]
        mine = "my_package.engine:register"

    or give it a name in a module that the config lists under ``plugins`` (`register_backend`), or name it in a stage as
    ``my_module:register``. It must

    - take the *total* start transform from `initial` and give back the total u, never the difference;
    - be deterministic: the same arguments give the same bytes, whatever runs beside it (`seed` is all the
      randomness there is);
    - use one thread (the blocks of a volume run side by side), or as many as `threads_of_block` of
      `weft.registration.threads` allows, and memory in proportion to the block;
    - return the start unchanged, with metrics 0, for a block that holds nothing to register;
    - raise ValueError, in one sentence, for arguments it cannot work with.

    Its module may also define

    - ``backend_version() -> str``, which says when its results change; without it the module's source is the version;
    - ``predicted_memory(fixed_shape, moving_shape, settings) -> int``: the most bytes that it and its arguments take at
      once, weights of both images among them; without it 130 bytes are counted for each voxel of both images. Blocks are
      sized and run beside each other by it (`weft.registration.needs`);
    - ``image_statistics(parts, spacing, settings)``, whose result, plain numbers fit for JSON, all blocks of a stage get
      as ``settings["intensity"] = {"fixed": ..., "moving": ...}`` (of several channels lists): one scale and one noise floor, so that a nearly
      empty block is not stretched until its noise looks like tissue. ``parts`` is a list of (z, y, x) arrays with
      content that are spread over the whole image, ``spacing`` their voxel size, um. A stage of one block asks for none;
    - ``own_process = True``, where its engine is compiled code that may crash: it then runs in a worker process, which costs
      its block alone when it dies, and blocks of several threads do not share Python's global lock;
    - ``load_engine()``, with `own_process`, where the engine takes long to load: called once, in a process that the workers
      are forked from. It must start no threads, as none survives a fork;
    - ``engine_mb``: what that process takes, MB, once for all blocks of a job, which a job asks for beside its blocks;
    - ``smoothing_radius(settings) -> int``: voxels around a voxel that its finest step sees; without it 8. A halo is
      that wide, and as much wider as displacements are still expected.
    """

    def __call__(
        self,
        fixed: np.ndarray,
        fixed_grid: Grid,
        moving: np.ndarray,
        moving_grid: Grid,
        initial: Initial,
        masks: Masks,
        settings: Mapping[str, Any],
        seed: int,
    ) -> Result:
        """Register a block.

        Parameters
        ----------
        fixed, moving
            (z, y, x) arrays of any real dtype: the block of the fixed image, and the part of the moving
            image that it can meet; or (c, z, y, x) of as many channels, where a registration compares several, with
            ``settings["channel_weights"]`` where it weights them. A backend for one channel refuses these.
        fixed_grid, moving_grid
            Where their voxels lie, each in its own physical space, um. The spacing is that of the stage, or an
            image's own along axes where that is larger; a single plane has an axis of one voxel.
        initial
            Where to start.
        masks
            (fixed mask or None, moving mask or None): arrays of the images' shapes, bool (true where an image
            counts) or weights from 0 to 1 (a backend without weights counts what is above 0).
        settings
            The backend's own settings; unknown names are refused.
        seed
            For backends that draw random samples.
        """
        ...


def register_backend(name: str, function: Backend) -> None:
    """Give a backend a name, for instance from a module of the config's ``plugins``.

    Parameters
    ----------
    name
        What the field `backend` of a stage calls it.
    function
        The backend, at the top level of a module: other processes find it there.

    Raises
    ------
    ValueError
        When the name is one of weft's own, or holds a colon, or the function lies within another one.
    """
    if name in BUILTIN or ":" in name:
        raise ValueError(f"backend {name!r} is one of weft's own or holds a colon; wanted another name")
    place = f"{function.__module__}:{function.__qualname__}"  # type: ignore[attr-defined]
    if "<" in place or "." in place.partition(":")[2]:
        raise ValueError(f"backend {name!r} is {place}; wanted a function at the top level of a module")
    _registered[name] = place


def backend_names() -> list[str]:
    """The names of all backends: weft's own, those registered and those of entry points."""
    return list(dict.fromkeys([*BUILTIN, *sorted(_registered), *sorted(published(ENTRY_POINTS))]))


def one_channel(name: str) -> bool:
    """Whether it is known that a backend compares one channel only."""
    return name in BUILTIN and name not in SEVERAL_CHANNELS


def portable_name(name: str) -> str:
    """A backend's name that means the same in every process: ``module:function`` of one that was registered.

    Raises
    ------
    ValueError
        When there is no such backend.
    """
    if name in BUILTIN or ":" in name:
        return name
    if name in _registered:
        return _registered[name]
    if name not in (known := backend_names()):
        raise ValueError(f"there is no backend {name!r}{suggest(name, known)}")
    return name


def load_backend(name: str) -> Backend:
    """The backend called `name`.

    Parameters
    ----------
    name
        A name in `BUILTIN`, one that was registered, a name from the entry-point group ``weft.backends``, or
        ``module:function``.

    Raises
    ------
    ValueError
        When there is no such backend or it cannot be imported.
    """
    target = backend_place(name)
    module_name, _, function = target.partition(":")
    try:
        backend = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"backend {name!r} ({target}) cannot be loaded: {error}") from error
    if not callable(backend):
        raise ValueError(f"backend {name!r} ({target}) is no function")
    return backend


def backend_place(name: str) -> str:
    """``module:function`` of a backend's name: what every process can load.

    Raises
    ------
    ValueError
        When there is no such backend.
    """
    if name in BUILTIN:
        return BUILTIN[name]
    if ":" in name or name in _registered:
        return _registered.get(name, name)
    if entry := published(ENTRY_POINTS).get(name):
        return entry.value
    raise ValueError(
        f"backend {name!r} is unknown; known are {', '.join(backend_names())}, or module:function"
    )


def backend_module(name: str) -> str:
    """Name of the module that a backend's function lies in.

    Raises
    ------
    ValueError
        When there is no such backend.
    """
    return backend_place(name).partition(":")[0]


def backend_version(name: str) -> str:
    """What tells two versions of a backend's results apart: it belongs into the name of a result.

    Raises
    ------
    ValueError
        As `load_backend`.
    """
    module = inspect.getmodule(load_backend(name))
    if module is None:
        raise ValueError(f"backend {name!r} belongs to no module, so its version cannot be told")
    version = getattr(module, "backend_version", None)
    if version is not None:
        return str(version())
    return hashlib.sha256(Path(inspect.getfile(module)).read_bytes()).hexdigest()[:16]
