"""The hand's word on tiles and pairs: links that are not used, displacements that are believed, tiles that stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.links.model import Link
from weft.names import suggest


def apply_overrides(
    rows: Sequence[dict[str, Any]], links: Sequence[Link], names: Sequence[str], stage: np.ndarray
) -> tuple[list[Link], dict[int, tuple[float, float, float]]]:
    """Links and pins as a person wants them.

    Parameters
    ----------
    rows
        Of one image, as `weft.overrides.read_overrides` gives them.
    links
        As measured.
    names
        Of the tiles.
    stage
        Stage positions, (n, 3) um: where a tile is pinned for which no place is given.

    Returns
    -------
    links
        Those that are excluded and forced have that status; a forced pair that was not measured is added.
    pins
        Positions, um, by tile.

    Raises
    ------
    ValueError
        When a row names a tile that is not there, or forces a pair without a displacement that has no link.
    """
    place = {name: n for n, name in enumerate(names)}
    found = {frozenset((link.i, link.j)): n for n, link in enumerate(links)}
    links = list(links)
    pins: dict[int, tuple[float, float, float]] = {}
    for row in rows:
        tiles = []
        for name in filter(None, (row["tile_a"], row["tile_b"])):
            if name not in place:
                raise ValueError(
                    f"overrides: line {row['line']}: there is no tile {name!r}{suggest(name, names)}"
                )
            tiles.append(place[name])
        given = None if row["z"] is None else np.array([row["z"], row["y"], row["x"]], float)
        pair = found.get(frozenset(tiles))
        if row["action"] == "pin":
            z, y, x = stage[tiles[0]] if given is None else given
            pins[tiles[0]] = (float(z), float(y), float(x))
        elif row["action"] == "exclude":
            out = [n for n, v in enumerate(links) if set(tiles) <= {v.i, v.j}]
            if not out and len(tiles) == 2:
                raise ValueError(
                    f"overrides: line {row['line']}: {row['tile_a']} and {row['tile_b']} have no link to exclude"
                )
            for n in out:
                links[n] = dataclasses.replace(links[n], status="excluded", confidence=0.0)
        elif pair is None and given is None:
            raise ValueError(
                f"overrides: line {row['line']}: {row['tile_a']} and {row['tile_b']} have no link to force; "
                "wanted z, y and x, the displacement of the second from the first in um"
            )
        elif pair is None:
            assert given is not None
            i, j = tiles
            links.append(Link(i, j, given, 1.0, 0.0, 0.0, "forced", 1.0))
        else:
            link = links[pair]
            way = link.displacement
            if given is not None:
                way = given if (link.i, link.j) == tuple(tiles) else -given
            links[pair] = dataclasses.replace(link, displacement=way, status="forced", confidence=1.0)
    return links, pins
