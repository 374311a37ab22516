"""Parameter maps of elastix: weft's own, those of files, and those written into the config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ParameterMap = dict[str, list[str]]

BINS = 32  # of the histograms of mutual information
# What elastix has no default for.
_NEEDED = {
    "Metric": ["AdvancedMattesMutualInformation"],
    "Optimizer": ["AdaptiveStochasticGradientDescent"],
    "ImageSampler": ["RandomCoordinate"],
}
_SEVERAL_METRICS = "MultiMetricMultiResolutionRegistration"
_LINE = re.compile(r"\(\s*(\w+)((?:\s+(?:\"[^\"]*\"|[^\s\")]+))+)\s*\)")
_VALUE = re.compile(r"\"([^\"]*)\"|(\S+)")


def own_map(transform: str, metric: str, *, levels: int, iterations: int, samples: int) -> ParameterMap:
    """A parameter map for images whose voxels have an edge of 1.

    Parameters
    ----------
    transform, metric
        elastix' names, as ``BSplineTransform`` and ``AdvancedMattesMutualInformation``.
    levels, iterations, samples
        Resolutions, steps on each, and voxels drawn for a step.
    """
    return {
        # The multi-metric class crashes with a single metric.
        "Registration": ["MultiResolutionRegistration"],
        "Metric": [metric],
        "NumberOfHistogramBins": [str(BINS)],
        "Transform": [transform],
        "AutomaticTransformInitialization": ["false"],
        "AutomaticScalesEstimation": ["true"],
        "HowToCombineTransforms": ["Compose"],
        "Optimizer": ["AdaptiveStochasticGradientDescent"],
        "AutomaticParameterEstimation": ["true"],
        "MaximumNumberOfIterations": [str(int(iterations))],
        "NumberOfResolutions": [str(int(levels))],
        "FixedImagePyramid": ["FixedSmoothingImagePyramid"],
        "MovingImagePyramid": ["MovingSmoothingImagePyramid"],
        "ImageSampler": ["RandomCoordinate"],
        "NumberOfSpatialSamples": [str(int(samples))],
        "NewSamplesEveryIteration": ["true"],
        "MaximumNumberOfSamplingAttempts": ["8"],
        "RequiredRatioOfValidSamples": ["0.05"],
        "Interpolator": ["LinearInterpolator"],
        "ErodeMask": ["false"],
    }


def given_map(values: Mapping[str, Any]) -> ParameterMap:
    """A parameter map as elastix takes it, from names and one value or a list of values each.

    A metric (mutual information), an optimiser and a sampler are added where none is named: elastix has no default for these.

    Raises
    ------
    ValueError
        For a map without ``Transform``, a value that is no number, text or truth value, or the class of several metrics
        with one metric, which crashes elastix.
    """
    found: ParameterMap = dict(_NEEDED)
    for name, value in values.items():
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if not items or not all(isinstance(item, (str, bool, int, float)) for item in items):
            raise ValueError(
                f"elastix: parameter {name} is {value!r}; wanted a number, a text or a list of such"
            )
        found[name] = [str(item).lower() if isinstance(item, bool) else str(item) for item in items]
    if "Transform" not in found:
        raise ValueError(
            f"elastix: a parameter map names no Transform, only {', '.join(values) or 'nothing'}"
        )
    if found.get("Registration") == [_SEVERAL_METRICS] and len(found.get("Metric", [])) < 2:
        raise ValueError(
            f"elastix: Registration is {_SEVERAL_METRICS} with a single Metric, which crashes; wanted MultiResolutionRegistration"
        )
    return found


def read_parameter_file(path: str | Path) -> ParameterMap:
    """A parameter map from an elastix parameter file: lines ``(Name value ...)``, and comments from ``//`` on.

    Raises
    ------
    ValueError
        When there is no such file, or a line of it is no parameter.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"elastix: parameter file {str(path)!r} cannot be read ({error})") from None
    found: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        text = line.split("//")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError(f"{path}: line {number} is {text!r}; wanted a parameter, (Name value ...)")
        found[match[1]] = [quoted or plain for quoted, plain in _VALUE.findall(match[2])]
    return given_map(found)


def steps_of(maps: Sequence[ParameterMap]) -> int:
    """The most iterations that elastix makes with these maps."""
    total = 0
    for one in maps:
        levels = int(float(one.get("NumberOfResolutions", ["3"])[0]))
        counts = [int(float(n)) for n in one.get("MaximumNumberOfIterations", ["500"])]
        total += sum(counts[min(level, len(counts) - 1)] for level in range(levels))
    return total
