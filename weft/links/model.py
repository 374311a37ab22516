"""A link: what one pairwise measurement says about two tiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

Status = Literal[
    "ok", "empty", "low_ncc", "ambiguous", "window_border", "small_overlap", "excluded", "forced"
]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True)
class LinkSettings:
    """How links are measured and judged.

    Parameters
    ----------
    method
        ``"phase"``, or ``"mip_ncc"``: TeraStitcher's measure, whose reliability is the confidence.
    small_box, large_box
        Sides, voxels, of the two boxes whose difference is the band-pass.
    peaks
        Peaks of the phase correlation that are scored by NCC.
    min_ncc
        A link below this NCC of the band-passed overlap is ``low_ncc``.
    max_peak_ratio
        A link whose second-best shift reaches this part of the best one's NCC is ``ambiguous``.
    distinct
        Not so when the best leaves less than this part of the variance unexplained that the rival leaves:
        0.97 against 0.93 is no close race over thousands of voxels.
    border
        A shift beyond this part of the search window is ``window_border``.
    min_overlap
        A link whose tiles share less than this part of a tile's volume is ``small_overlap``.
    min_shared
        Shifts that leave less than this part of the smaller crop are not considered.
    content
        A crop is ``empty`` when its band-passed variance is below this multiple of what noise alone makes.
    whole
        Crops of at most this many voxels are compared whole. Larger ones are binned for the search, to
        about as many, and refined on a few blocks of full resolution.
    blocks
        How many blocks, at most.
    most_read
        Crops larger than this many voxels are cut to their most structured part along z.
    matches
        Match blocks of all links (True) or, of overlaps that are compared whole, of none (False): poses that are more
        than translations need them. None matches those of overlaps that are ``bent``.
    bent
        An overlap is, when the displacements of its parts differ from their median by more than this
        (the median one), voxels.
    slack
        With ``matches``: how far blocks may depart from the link's displacement, voxels.
    """

    method: Literal["phase", "mip_ncc"] = "phase"
    small_box: int = 3
    large_box: int = 15
    peaks: int = 6
    min_ncc: float = 0.3
    max_peak_ratio: float = 0.9
    distinct: float = 0.6
    border: float = 0.95
    min_overlap: float = 0.001
    min_shared: float = 0.15
    content: float = 3.0
    whole: int = 4_000_000
    blocks: int = 6
    most_read: int = 128_000_000
    matches: bool | None = None
    bent: float = 0.4
    slack: int = 12


@dataclass(frozen=True)
class Link:
    """Where tile ``j`` lies relative to tile ``i``, as measured on their overlap.

    Parameters
    ----------
    i, j
        Places of the tiles in the tile set.
    displacement
        Position of ``j`` minus position of ``i``, (3,) float64 um, (z, y, x); the stage's where nothing
        could be measured.
    ncc
        Of the band-passed overlap at that displacement.
    peak_ratio
        NCC of the best rival shift relative to ``ncc``, 0 ... 1.
    overlap
        Part of a tile's volume that both tiles share.
    status
        ``"ok"`` or why the displacement is not to be trusted; ``"excluded"`` and ``"forced"`` by hand.
    confidence
        0 ... 1; 0 unless ``status`` is ``"ok"``.
    window
        The largest part of the search window that the displacement takes up, 0 ... 1.
    rival
        The second-best displacement, (3,) um, where there is one.
    matches
        What blocks of the overlap say, (k, 7): a block's middle from the first voxel of tile ``i``, um, the
        displacement there, um, and its NCC.
    """

    i: int
    j: int
    displacement: np.ndarray
    ncc: float
    peak_ratio: float
    overlap: float
    status: Status
    confidence: float
    window: float = 0.0
    rival: np.ndarray | None = None
    matches: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))

    def reason(self, settings: LinkSettings) -> str:
        """Why the displacement is not to be trusted, in a few words; empty for a link that is ``ok``."""
        return {
            "ok": "",
            "empty": "nothing to see in one of the tiles",
            "low_ncc": f"NCC {self.ncc:.3g} is below {settings.min_ncc:g}",
            "ambiguous": f"the second peak reaches {self.peak_ratio:.3g} of the first, above {settings.max_peak_ratio:g}",
            "window_border": f"takes up {self.window:.3g} of the search window, above {settings.border:g}",
            "small_overlap": f"shares {self.overlap:.3g} of a tile, below {settings.min_overlap:g}",
            "excluded": "excluded by hand",
            "forced": "forced by hand",
        }[self.status]
