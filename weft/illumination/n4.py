"""N4 on the mean of all samples."""

from __future__ import annotations

import numpy as np

from weft.illumination.log_gain import OnBlocks
from weft.illumination.samples import Samples

_ITERATIONS = (50, 50, 50, 50)
# Blocks of the mean below this part of its highest hold too little to take a logarithm of.
_LEAST = 0.01


def n4_mean(samples: Samples) -> OnBlocks:
    """The bias field of the mean sample, as N4 finds it (Tustison et al., N4ITK, IEEE TMI 2010).

    CloudReg's correction in spirit. The mean is of the signal, so that the logarithm of dim corners is theirs
    and not that of an offset; places without signal are masked out, and N4 gets the plane as it is.
    """
    import SimpleITK as sitk

    plane = samples.signal.mean(0, dtype=float)
    inside = plane > max(_LEAST * plane.max(), 1e-6)
    image = sitk.GetImageFromArray(np.where(inside, plane, plane.max()).astype(np.float32))
    correct = sitk.N4BiasFieldCorrectionImageFilter()
    correct.SetNumberOfThreads(1)  # the same to the byte whatever the machine
    correct.SetMaximumNumberOfIterations(_ITERATIONS)
    correct.Execute(image, sitk.GetImageFromArray(inside.astype(np.uint8)))
    field = sitk.GetArrayFromImage(correct.GetLogBiasFieldAsImage(image)).astype(float)
    return OnBlocks(field, samples.y, samples.x)
