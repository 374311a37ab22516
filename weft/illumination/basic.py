"""BaSiC, through its own package in an environment of its own (`envs/basic.yaml`)."""

from __future__ import annotations

import importlib.util

import numpy as np

from weft.illumination.log_gain import OnBlocks
from weft.illumination.samples import Samples


def require_basic() -> None:
    """Refuse, in one sentence, where the package is not installed (RuntimeError)."""
    if importlib.util.find_spec("basicpy") is None:
        raise RuntimeError(
            "illumination.method 'basic' needs the package basicpy, which has an environment of its own, "
            "envs/basic.yaml: run snakemake with --software-deployment-method conda, or install it"
        )


def basic(samples: Samples) -> OnBlocks:
    """The flat-field of BaSiC (Peng et al., A BaSiC tool for background and shading correction, Nature Comm. 2017).

    Run on the block means, with what the empty parts show put back: BaSiC has its own model of a baseline.

    Raises
    ------
    RuntimeError
        Where the package is not installed.
    """
    require_basic()
    from basicpy import BaSiC

    ground = np.asarray(samples.background_on(samples.y, samples.x), np.float32)
    model = BaSiC(get_darkfield=False, working_size=min(samples.signal.shape[1:]), device="cpu")
    model.fit(samples.signal + ground)
    flat = np.asarray(model.flatfield, float)
    return OnBlocks(np.log(np.maximum(flat, 1e-3)), samples.y, samples.x)
