"""Other registration programs, each at its best known settings and in one thread.

Every function takes (z, y, x) arrays whose voxels are 1 (millimetre) on each axis, and an affine to start from:
(4, 4), voxels, fixed to moving, or None for the one it finds itself. It gives back a function that makes the result
dense: (3, z, y, x) float32, voxels, where each fixed voxel goes, less where it is. The first step alone is timed.

Importing this module needs numpy alone: it also runs in an environment that holds a peer and not weft.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Found = Callable[[], np.ndarray]
VERSION = "1"  # raise it when a peer is run in another way
PACKAGES = {"greedy": "picsl-greedy", "elastix": "itk-elastix", "ants": "antspyx"}
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def identity(method: str) -> str:
    """What tells two versions of a peer's results apart; raises PackageNotFoundError where it is not installed."""
    return f"{VERSION}-{PACKAGES[method]}-{version(PACKAGES[method])}"


def greedy(
    fixed: np.ndarray, moving: np.ndarray, affine: np.ndarray | None, settings: Mapping[str, Any]
) -> Found:
    """picsl-greedy, NCC 2x2x2; ``iterations`` and ``smoothing`` as its options ``-n`` and ``-s``.

    Without the noise that it adds, and with its warp not rounded, both of which it does by default.
    """
    import SimpleITK as sitk
    from picsl_greedy import Greedy3D

    start = np.eye(4) if affine is None else affine
    matrix = _TO_LPS @ _turned(start) @ _TO_LPS
    program = Greedy3D()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        path = Path(folder) / "affine.mat"
        np.savetxt(path, matrix, fmt="%.17g")
        program.execute(
            f"-threads 1 -V 0 -i f m -it {path} -o w -noise 0 -wp 0 -m {settings.get('metric', 'NCC 2x2x2')} "
            f"-n {settings.get('iterations', '60x20x0')} -s {settings.get('smoothing', '3vox 0.5vox')}",
            f=sitk.GetImageFromArray(np.asarray(fixed, np.float32)),
            m=sitk.GetImageFromArray(np.asarray(moving, np.float32)),
            w=None,
            out=nowhere,
            err=nowhere,
        )

    def dense() -> np.ndarray:
        # (z, y, x, 3) along LPS x, y, z, which are our axes turned round; T(x) = A(x + w(x)).
        warp = np.moveaxis(sitk.GetArrayFromImage(program["w"])[..., ::-1], -1, 0)
        return through_affine(start, warp)

    return dense


def elastix(
    fixed: np.ndarray, moving: np.ndarray, affine: np.ndarray | None, settings: Mapping[str, Any]
) -> Found:
    """itk-elastix: its B-spline after ``affine``, or after rigid and affine steps of its own.

    ``spacing`` (of control points, voxels), ``levels``, ``iterations`` and ``samples`` override what did best.
    """
    import itk

    axes = np.squeeze(fixed).ndim
    images = [
        itk.image_view_from_array(np.squeeze(np.asarray(v, np.float32)).copy()) for v in (fixed, moving)
    ]
    method = itk.ElastixRegistrationMethod[type(images[0]), type(images[1])].New(*images)
    parameters = itk.ParameterObject.New()
    steps = ["bspline"] if affine is not None else ["rigid", "affine", "bspline"]
    for number, step in enumerate(steps):
        values = _elastix_map(itk, step, axes, fixed.shape, settings)
        if number == 0 and affine is None:
            values |= {
                "AutomaticTransformInitialization": ["true"],
                "AutomaticTransformInitializationMethod": ["CenterOfGravity"],
            }
        parameters.AddParameterMap(values)
    method.SetParameterObject(parameters)
    if affine is not None:
        start = itk.ParameterObject.New()
        start.AddParameterMap(_elastix_start(affine, fixed.shape))
        method.SetInitialTransformParameterObject(start)
    method.SetNumberOfThreads(1)
    method.SetLogToConsole(False)
    method.UpdateLargestPossibleRegion()
    found = method.GetTransformParameterObject()

    def dense() -> np.ndarray:
        transformix = itk.TransformixFilter.New(images[1])
        transformix.SetTransformParameterObject(found)
        transformix.SetComputeDeformationField(True)
        transformix.SetLogToConsole(False)
        transformix.UpdateLargestPossibleRegion()
        field = itk.array_from_image(transformix.GetOutputDeformationField())[..., ::-1]
        out = np.zeros((3, *fixed.shape), np.float32)
        out[3 - axes :] = np.moveaxis(field, -1, 0).reshape(axes, *fixed.shape)
        return out

    return dense


def ants(
    fixed: np.ndarray, moving: np.ndarray, affine: np.ndarray | None, settings: Mapping[str, Any]
) -> Found:
    """antspyx: SyN after ``affine``, or after an affine of its own (``type_of_transform`` SyN, its defaults)."""
    import ants as antspy

    images = [antspy.from_numpy(np.asarray(v, np.float32)) for v in (fixed, moving)]
    options: dict[str, Any] = {"type_of_transform": "SyN", "random_seed": 1, **settings}
    with tempfile.TemporaryDirectory() as folder:
        if affine is not None:
            # Its axes are ours: antspyx takes the first of an array for x.
            transform = antspy.create_ants_transform(
                transform_type="AffineTransform",
                dimension=3,
                matrix=affine[:3, :3],
                translation=affine[:3, 3],
            )
            path = str(Path(folder) / "affine.mat")
            antspy.write_transform(transform, path)
            options |= {"type_of_transform": "SyNOnly", "initial_transform": path}
        found = antspy.registration(*images, **options)

    def dense() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            path = antspy.apply_transforms(*images, found["fwdtransforms"], compose=f"{folder}/total-")
            return np.moveaxis(antspy.image_read(path).numpy(), -1, 0).astype(np.float32)

    return dense


def warm(method: str) -> None:
    """Load what a method loads at its first call."""
    if method == "elastix":
        import itk

        image = itk.image_view_from_array(np.zeros((4, 4, 4), np.float32))
        _ = itk.ElastixRegistrationMethod[type(image), type(image)], itk.ParameterObject.New()
    elif method == "greedy":
        import picsl_greedy
        import SimpleITK

        _ = picsl_greedy, SimpleITK
    elif method == "ants":
        import ants as antspy

        antspy.from_numpy(np.zeros((4, 4, 4), np.float32))


def through_affine(affine: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """A(x + u(x)) - x over a whole array, (3, z, y, x) float32."""
    shape = displacement.shape[1:]
    index = np.indices(shape, np.float32, sparse=True)
    out = np.empty((3, *shape), np.float32)
    for axis in range(3):
        out[axis] = affine[axis, 3] - index[axis]
        for k in range(3):
            out[axis] += np.float32(affine[axis, k]) * (displacement[k] + index[k])
    return out


def _turned(affine: np.ndarray) -> np.ndarray:
    """An affine of (z, y, x) as one of (x, y, z), or the other way round."""
    order = [2, 1, 0, 3]
    return affine[order][:, order]


def _elastix_map(
    itk: Any, step: str, axes: int, shape: tuple[int, ...], settings: Mapping[str, Any]
) -> dict[str, list[str]]:
    """A parameter map: elastix' default of a step, with what did best on pairs of 128 and 256 voxels."""
    levels = int(settings.get("levels", 4))
    longest = max(shape)
    spacing = settings.get("spacing", 8 if longest <= 128 else 12 if longest <= 256 else 16)
    values = dict(itk.ParameterObject.New().GetDefaultParameterMap(step, levels))
    values = {name: list(value) for name, value in values.items()}
    values |= {
        # The multi-metric class, which the default of the B-spline names, crashes with a single metric.
        "Registration": ["MultiResolutionRegistration"],
        "Metric": ["AdvancedMattesMutualInformation"],
        "ImageSampler": ["RandomCoordinate"],
        "NewSamplesEveryIteration": ["true"],
        "NumberOfSpatialSamples": [str(settings.get("samples", 8192))],
        "MaximumNumberOfIterations": [str(settings.get("iterations", 1000))],
        "AutomaticTransformInitialization": ["false"],
        "WriteResultImage": ["false"],
        "RandomSeed": ["121212"],
        "FixedImageDimension": [str(axes)],
        "MovingImageDimension": [str(axes)],
    }
    if step == "bspline":
        values.pop("FinalGridSpacingInPhysicalUnits", None)
        values |= {
            "Metric": [settings.get("metric", "AdvancedNormalizedCorrelation")],
            "MaximumStepLength": ["1.0"],
            "FinalGridSpacingInVoxels": [str(spacing)] * axes,
            "GridSpacingSchedule": [str(2.0**k) for k in range(levels - 1, -1, -1)],
        }
    return values


def _elastix_start(affine: np.ndarray, shape: tuple[int, ...]) -> dict[str, list[str]]:
    matrix = _turned(affine)
    numbers = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    return {
        "Transform": ["AffineTransform"],
        "NumberOfParameters": ["12"],
        "TransformParameters": [repr(float(v)) for v in numbers],
        "CenterOfRotationPoint": ["0.0"] * 3,
        "InitialTransformParametersFileName": ["NoInitialTransform"],
        "InitialTransformParameterFileName": ["NoInitialTransform"],
        "HowToCombineTransforms": ["Compose"],
        "FixedImageDimension": ["3"],
        "MovingImageDimension": ["3"],
        "FixedInternalImagePixelType": ["float"],
        "MovingInternalImagePixelType": ["float"],
        "Size": [str(n) for n in shape[::-1]],
        "Index": ["0"] * 3,
        "Spacing": ["1"] * 3,
        "Origin": ["0"] * 3,
        "Direction": ["1", "0", "0", "0", "1", "0", "0", "0", "1"],
        "UseDirectionCosines": ["true"],
    }
