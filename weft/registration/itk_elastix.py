"""Runs itk-elastix in worker processes: loaded once, and a crash ends one registration."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from weft.registration.debug import block_folder, folder_of_block
from weft.registration.itk_image import itk_displacement
from weft.registration.own_process import call_elsewhere

TransformMap = dict[str, list[str]]


def run_elastix(
    fixed: np.ndarray,
    moving: np.ndarray,
    masks: tuple[np.ndarray | None, np.ndarray | None],
    maps: Sequence[Mapping[str, Sequence[str]]],
    seed: int = 0,
    timeout: float | None = None,
    *,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    displacement: bool = False,
) -> tuple[list[TransformMap], np.ndarray | None]:
    """Register two images with itk-elastix, in one thread of another process.

    The images' origin is 0; an axis of a single voxel is left out, so that a single plane is registered in its plane.
    Several threads may call at a time; each has a process of its own. What elastix writes, its log and its files of the
    transforms, is left in `weft.registration.debug.folder_of_block` if there is one, whatever came of it.

    Parameters
    ----------
    fixed, moving
        (z, y, x) arrays of one shape, taken as float32.
    masks
        (fixed mask or None, moving mask or None), bool arrays of the images' shapes.
    maps
        elastix parameter maps, each run on top of those before.
    seed
        Of what elastix draws at random, where a map does not say.
    timeout
        Seconds after which the registration is ended.
    spacing
        Voxel size (z, y, x), in elastix' unit; by default lengths in `maps` and in the result are voxels.
    displacement
        Whether the displacement of all maps together is wanted.

    Returns
    -------
    transforms, displacement
        elastix' transform parameter maps, one for each of `maps`, points in ITK's (x, y, z); and the displacement of all
        of them at the voxels, (3, z, y, x) float32 in elastix' unit, or None.

    Raises
    ------
    RuntimeError
        When elastix fails on these images, or crashes: other registrations are not touched by it.
    TimeoutError
        When the time is over.
    """
    shape = np.shape(fixed)
    axes = [axis for axis in range(3) if shape[axis] > 1]
    kinds = np.float32, np.float32, np.uint8, np.uint8
    arrays = [
        None if array is None else np.ascontiguousarray(array.squeeze(), kind)
        for array, kind in zip((fixed, moving, *masks), kinds, strict=True)
    ]
    own = {"RandomSeed": [str(seed % 2**31 or 1)]}
    complete = [{**own, **one, "WriteResultImage": ["false"]} for one in maps]
    lengths = [float(spacing[axis]) for axis in reversed(axes)]
    # A folder that is nobody's is this process's to remove: the other one may be ended.
    with (
        tempfile.TemporaryDirectory(prefix="weft-elastix-") as folder,
        block_folder(folder_of_block() or Path(folder)),
    ):
        transforms, vectors = call_elsewhere(
            f"{__name__}:register_images",
            *(*arrays, complete, lengths, displacement),
            caller="elastix",
            timeout=timeout,
        )
    return transforms, None if vectors is None else itk_displacement(vectors, shape, axes)


def elastix_version() -> str:
    """Version of the installed itk-elastix.

    Raises
    ------
    ValueError
        When it is not installed.
    """
    try:
        return version("itk-elastix")
    except PackageNotFoundError:
        raise ValueError("elastix needs the package itk-elastix, which is not installed") from None


def load_engine() -> None:
    """Load itk-elastix, which costs ten CPU-seconds and most of a gigabyte, into the process that workers are forked from."""
    import itk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    _ = itk.ParameterObject, itk.array_view_from_image
    # Touching the class of one image type loads all of them.
    kind = type(itk.image_view_from_array(np.zeros((2, 2, 2), np.float32)))
    _ = itk.ElastixRegistrationMethod[kind, kind], itk.TransformixFilter[kind]


def register_images(
    fixed: np.ndarray,
    moving: np.ndarray,
    fixed_mask: np.ndarray | None,
    moving_mask: np.ndarray | None,
    maps: Sequence[Mapping[str, Sequence[str]]],
    spacing: Sequence[float],
    displacement: bool,
) -> tuple[list[TransformMap], np.ndarray | None]:
    """What `run_elastix` runs in a worker process, which has a `folder_of_block`.

    Parameters
    ----------
    fixed, moving
        (z, y, x) or (y, x) float32.
    fixed_mask, moving_mask
        uint8 of the same shapes, or None.
    maps
        elastix parameter maps.
    spacing
        Voxel size (x, y, z) or (x, y), in elastix' unit.
    displacement
        Whether it is wanted.

    Returns
    -------
    transforms, displacement
        elastix' transform parameter maps in the order in which they act; and (z, y, x, 3) or (y, x, 2) float32, components in ITK's
        order, or None.

    Raises
    ------
    RuntimeError
        When elastix fails.
    """
    import itk  # already loaded in the worker

    folder = folder_of_block()
    assert folder is not None

    def image(array: np.ndarray) -> Any:
        found = itk.image_view_from_array(array)
        found.SetSpacing(spacing)
        return found

    one, other = image(fixed), image(moving)
    # Kept by name until the end: elastix does not hold its masks.
    masks = [None if mask is None else image(mask) for mask in (fixed_mask, moving_mask)]
    parameters = itk.ParameterObject.New()
    for parameter_map in maps:
        parameters.AddParameterMap(parameter_map)
    try:
        method = itk.ElastixRegistrationMethod[type(one), type(other)].New(one, other)
        if masks[0] is not None:
            method.SetFixedMask(masks[0])
        if masks[1] is not None:
            method.SetMovingMask(masks[1])
        method.SetParameterObject(parameters)
        method.SetNumberOfThreads(1)
        method.SetLogToConsole(False)
        method.SetOutputDirectory(str(folder))
        method.SetLogToFile(True)
        method.UpdateLargestPossibleRegion()
        found = method.GetTransformParameterObject()
        vectors = _displacement(other, found, folder) if displacement else None
    except Exception as error:  # whatever C++ throws
        raise RuntimeError(f"elastix failed on this block: {_reason(folder, error)}") from error
    transforms = (found.GetParameterMap(n) for n in range(found.GetNumberOfParameterMaps()))
    return [{name: list(values) for name, values in dict(one).items()} for one in transforms], vectors


def _displacement(moving: Any, transforms: Any, folder: Path) -> np.ndarray:
    """Displacement at the voxels: whatever kinds of transform were asked for, elastix knows how to follow one after the other."""
    import itk

    chain = itk.TransformixFilter[type(moving)].New(moving, transforms)
    chain.SetComputeDeformationField(True)
    chain.SetOutputDirectory(str(folder))
    chain.SetLogToConsole(False)
    chain.SetLogToFile(False)
    chain.UpdateLargestPossibleRegion()
    return itk.array_from_image(chain.GetOutputDeformationField())


def _reason(folder: Path, error: Exception) -> str:
    """One line that says why: elastix names the cause in its log only."""
    with contextlib.suppress(OSError):
        log = (folder / "elastix.log").read_text(errors="replace")
        causes = [
            line.split(":", 1)[1].strip() for line in log.splitlines() if line.startswith("Description:")
        ]
        causes += [
            line.removeprefix("ERROR:").strip() for line in log.splitlines() if line.startswith("ERROR:")
        ]
        if causes:
            return causes[0].removeprefix("ITK ERROR: ")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
