"""Settings of the native engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from weft.registration.backends.native_images import Contrast


@dataclass(frozen=True)
class NativeSettings:
    """Settings of the native engine.

    Levels are counted in halvings of the block's own resolution. The entries of `iterations`, `sigma`,
    `stiffness`, `robustness` and `tolerance` belong to levels 0, 1, ...; the last entry holds for all coarser ones.

    Parameters
    ----------
    levels
        Which levels to run, coarsest first, each one finer than the one before. Levels at which the block
        has fewer than 12 voxels along an axis are left out (never the last). Without level 0 a
        registration costs a third and is more robust against noise.
    iterations
        Most steps per level.
    sigma
        Width of the Gaussian that smooths the normal equations, in cells of the displacement grid (2
        voxels of the level). Noise widens it on coarser levels, up to 1.4 times; at the finest one it is up
        to 1.6 times wider, the more the images leave open and the less the displacement bends, or down to half where it is
        rough (`native_prior`).
    presmoothing
        Width of a Gaussian, in voxels, over the images of level 0 (coarser ones are averages already): it
        halves the noise that correlation and gradients see. 0 leaves it out.
    damping
        lambda: added to the diagonal of the normal equations, per voxel. Larger steps less where there is
        little texture.
    stiffness
        How strongly the total displacement is held smooth, in proportion to sqrt(noise / curvature) as both
        are measured on the pair (`native_prior`). Larger keeps volumes more plausible and fits less noise.
    tension
        How much of that smoothness goes against stretching rather than bending: weight of |grad u|^2 beside
        |Laplacian u|^2, per cell of the displacement grid.
    volume
        How strongly volumes are held against growing or shrinking: weight of (J - 1 / J)^4, J the Jacobian
        determinant. It hardly acts on changes of a third and stops those of a factor of two.
    noise_floor
        Added to the variances, as a share of the image's typical local variance.
    robustness
        kappa, per level: windows that fit badly count by kappa / (kappa + 1 - rho^2). Smaller ignores missing
        tissue and changed contrast better. Strict on coarse levels, where a wrong match misleads all that follows,
        and lenient at level 0, where images of different kinds never fit well; white noise makes it stricter.
    tolerance
        A level ends when a step raised the mean of rho^2 by less. Steps of the finest level cost most and move least:
        it also ends with a second step that leads elsewhere than the first, and is left out where the level before it settled
        on what the images do not have in common.
    step_limit
        Longest step, voxels of the level.
    jacobian_floor
        No step may bring a Jacobian determinant of x -> x + u(x) below this.
    channel_weights
        How much each channel counts, where blocks have several; by default all the same.
    contrast
        ``linear`` compares the values, ``root`` sqrt(mean + value), ``log`` log(1 + value / mean): see
        `intensity_statistics`.
    intensity
        ``{"fixed": ..., "moving": ...}`` as `intensity_statistics` gives them for the whole images at
        this resolution, or lists of these for several channels; by default the plan of a stage measures them for all
        its blocks, and a single block is scaled by itself.

    Raises
    ------
    ValueError
        For a value out of its range.
    """

    levels: tuple[int, ...] = (3, 2, 1, 0)
    iterations: tuple[int, ...] = (12,)
    sigma: tuple[float, ...] = (1.5, 1.4, 1.4)
    presmoothing: float = 0.6
    damping: float = 0.005
    stiffness: tuple[float, ...] = (0.0005,)
    tension: float = 1.0
    volume: float = 0.045
    noise_floor: float = 0.002
    robustness: tuple[float, ...] = (0.5, 0.2, 0.05)
    tolerance: tuple[float, ...] = (0.0007, 0.0005)
    step_limit: float = 1.0
    jacobian_floor: float = 0.1
    channel_weights: tuple[float, ...] | None = None
    contrast: Contrast = "root"
    intensity: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] | None = None

    def __post_init__(self) -> None:
        for name in ("levels", "iterations", "sigma", "robustness", "stiffness", "tolerance"):
            value = getattr(self, name)
            values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
            object.__setattr__(self, name, values)
        falling = tuple(range(self.levels[0], self.levels[-1] - 1, -1)) if self.levels else ()
        if not self.levels or self.levels != falling or not 0 <= self.levels[-1] <= self.levels[0] <= 16:
            self._refuse("levels", "levels 0 to 16, each one less than the one before, as 3, 2, 1, 0")
        if not self.iterations or min(self.iterations) < 0:
            self._refuse("iterations", "counts of 0 or more")
        if not self.sigma or not 0.3 <= min(self.sigma) <= max(self.sigma) <= 20:
            self._refuse("sigma", "widths from 0.3 to 20 cells")
        for name in ("robustness", "stiffness"):
            values = getattr(self, name)
            if not values or not 0 < min(values) <= max(values) < float("inf"):
                self._refuse(name, "numbers above 0")
        if not 0 <= self.volume <= 10:
            self._refuse("volume", "a weight from 0 to 10")
        for name in ("damping", "noise_floor"):
            if not 0 < getattr(self, name) < float("inf"):
                self._refuse(name, "a number above 0")
        if not 0 <= self.presmoothing <= 5:
            self._refuse("presmoothing", "a width from 0 to 5 voxels")
        if not 0 <= self.tension <= 100:
            self._refuse("tension", "a weight from 0 to 100")
        if not self.tolerance or not 0 <= min(self.tolerance) <= max(self.tolerance) < 1:
            self._refuse("tolerance", "numbers from 0 to below 1")
        if not 0 < self.step_limit <= 2:
            self._refuse("step_limit", "more than 0 and at most 2 voxels")
        if not 0 < self.jacobian_floor < 1:
            self._refuse("jacobian_floor", "a number between 0 and 1")
        if self.channel_weights is not None:
            object.__setattr__(self, "channel_weights", tuple(self.channel_weights))
            if not self.channel_weights or not all(0 < w < float("inf") for w in self.channel_weights):
                self._refuse("channel_weights", "numbers above 0")
        if self.contrast not in get_args(Contrast):
            self._refuse("contrast", " or ".join(get_args(Contrast)))
        if self.intensity is not None and set(self.intensity) != {"fixed", "moving"}:
            self._refuse("intensity", "the statistics of 'fixed' and of 'moving'")

    def _refuse(self, name: str, wanted: str) -> None:
        raise ValueError(f"setting {name} of backend native is {getattr(self, name)!r}; wanted {wanted}")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> NativeSettings:
        """Settings by name; unknown names are a ValueError."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"backend native has no setting {', '.join(unknown)}; it has {', '.join(known)}")
        return cls(**settings)

    def at(self, values: tuple, level: int) -> Any:
        """The entry of a setting by level."""
        return values[min(level, len(values) - 1)]
