"""A gain that is given: an image, or the illumination that an earlier sample left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import zarr


def read_profile(
    path: str | Path, channel: int, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Gain of mean 1, float32 (y, x), and the dark that was saved with it, if any.

    Parameters
    ----------
    path
        A TIFF or .npy image, (y, x) or (c, y, x); or the ``illumination.zarr`` of another sample taken with
        the same microscope, which holds its dark too.
    channel
        Which of several planes; a single one is for all channels.
    shape
        Of the tiles, (y, x).

    Raises
    ------
    FileNotFoundError
        When it is not there.
    ValueError
        When it has another shape than the tiles, lacks the channel or is not positive.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"the gain is to be read from {path}, which is not there")
    if path.is_dir():
        gain, dark = (
            _plane(np.asarray(zarr.open_array(str(path / part), mode="r")), path, channel, shape)
            for part in ("gain", "dark")
        )
    else:
        image = np.load(path, allow_pickle=False) if path.suffix == ".npy" else tifffile.imread(path)
        gain, dark = _plane(image, path, channel, shape), None
    if not (np.isfinite(gain).all() and gain.min() > 0):
        raise ValueError(
            f"{path}: a gain must be finite and positive everywhere; its least value is {gain.min()}"
        )
    return (gain / gain.mean(dtype=float)).astype(np.float32), dark


def _plane(image: np.ndarray, path: Path, channel: int, shape: tuple[int, int]) -> np.ndarray:
    if image.ndim == 3 and len(image) > 1 and channel >= len(image):
        raise ValueError(f"{path}: holds {len(image)} channels; channel {channel} is wanted")
    plane = image[channel if len(image) > 1 else 0] if image.ndim == 3 else image
    if plane.shape != shape:
        raise ValueError(f"{path}: a gain must have the tiles' {shape} (y, x); found {plane.shape}")
    return np.asarray(plane, np.float32)
