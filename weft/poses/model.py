"""What a solve for positions takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Method = Literal["robust", "terastitcher"]
METHODS: tuple[str, ...] = get_args(Method)
Model = Literal["auto", "translation", "rigid", "similarity", "affine"]
MODELS: tuple[str, ...] = get_args(Model)


@dataclass(frozen=True)
class PoseSettings:
    """How positions are solved; lengths in voxels.

    Parameters
    ----------
    method
        ``"robust"``, or ``"terastitcher"`` (a threshold on the confidence and a spanning tree).
    link_sigma
        Expected error of a good link, per axis.
    stage_sigma
        Expected error of the stage between two neighbouring tiles (weak edges).
    closure
        Cycles of three or four links that close within this vouch for their links.
    outlier
        A link that is farther off than this many ``link_sigma`` costs no more for being still farther off.
    used
        A link whose robust weight is below this does not tie its tiles together.
    threshold
        ``terastitcher`` only: a link of less confidence is replaced by the stage's displacement.
    model
        What a tile's pose is. All but ``"translation"`` take block matches of the links. ``"auto"``: what these ask for
        (see `choose_model`), translations where they are few or the shape of a tile is not given.
    linear_sigma
        How far the elements of a linear part are expected from the identity.
    """

    method: Method = "robust"
    link_sigma: float = 0.5
    stage_sigma: float = 8.0
    closure: float = 1.5
    outlier: float = 5.0
    used: float = 0.1
    threshold: float = 0.3
    model: Model = "auto"
    linear_sigma: float = 0.005


@dataclass(frozen=True)
class Poses:
    """Where the tiles lie.

    Parameters
    ----------
    positions
        Of the first voxel's centre of each tile, (n, 3) float64 um.
    status
        Per tile: ``"ok"`` (tied by a link), ``"pinned"`` (placed by hand), ``"neighbours"`` (no trusted
        link: moved as its neighbours are), ``"stage_only"`` (nothing near it: where the stage says).
    residual
        Per link, as given: distance between its displacement and the solved one, um.
    weight
        Per link: 0 (rejected, or not ``"ok"`` in the first place) to 1.
    rival
        Per link: whether it is its second displacement that agrees with the others, and is used.
    votes
        Per link: cycles of three or four links that close with it.
    component
        Per tile: number of the set of tiles that trusted links tie together, the largest set first.
    linear
        Linear part of each tile's pose, (n, 3, 3): the voxel at the offset d (um) from the tile's first voxel
        lies at ``position + linear @ d``. None for translations.
    """

    positions: np.ndarray
    status: tuple[str, ...]
    residual: np.ndarray
    weight: np.ndarray
    rival: np.ndarray
    votes: np.ndarray
    component: np.ndarray
    linear: np.ndarray | None = None
