"""Kernels of the solve: cycles that close, and moves of whole blocks of tiles."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def count_votes(first, partner, claim, sign, ends, measured, closure, enough):
    """How many cycles of three or four claims close with each claim.

    Parameters
    ----------
    first, partner, claim, sign
        Neighbours of the tiles: those of tile t are the entries ``first[t]`` to ``first[t + 1]``, each with
        the tile at its other end, the claim's number, and +1 where the claim leads there, else -1.
    ends, measured
        Tiles i and j, (n, 2), and displacement from i to j, (n, 3), of each claim.
    closure
        A cycle closes when it ends no farther than this from where it began.
    enough
        Cycles of four are only walked where fewer cycles of three close.

    Returns
    -------
    ndarray of int64, (n,)
    """
    votes = np.zeros(ends.shape[0], np.int64)
    limit = closure * closure
    way = np.empty((3, 3))
    for n in range(ends.shape[0]):
        i, j = ends[n]
        for longer in range(2):
            if longer and votes[n] >= enough:
                break
            for a in range(first[j], first[j + 1]):
                k = partner[a]
                if k == i:
                    continue
                for x in range(3):
                    way[0, x] = measured[n, x] + sign[a] * measured[claim[a], x]
                for b in range(first[k], first[k + 1]):
                    m = partner[b]
                    if (m == i) == bool(longer) or (longer and m == j) or (not longer and m != i):
                        continue
                    for x in range(3):
                        way[1, x] = way[0, x] + sign[b] * measured[claim[b], x]
                    if not longer:
                        votes[n] += way[1, 0] ** 2 + way[1, 1] ** 2 + way[1, 2] ** 2 < limit
                        continue
                    for c in range(first[m], first[m + 1]):
                        if partner[c] != i:
                            continue
                        gap = 0.0
                        for x in range(3):
                            gap += (way[1, x] + sign[c] * measured[claim[c], x]) ** 2
                        votes[n] += gap < limit
    return votes


@numba.njit(cache=True, nogil=True)
def settle_blocks(
    positions, start, label, order, first, partner, claim, sign, measured, weight, cost, near_first, near, prior, most
):  # fmt: skip
    """Move each block of tiles to where one of its outer claims puts it, if that costs less; in place.

    The cost of a block's place is the sum over its outer pairs of tiles of ``min(weight * gap ** 2, cost)``
    (the least of a pair's claims), and ``prior`` times the squared difference between the block's mean move
    from the stage and that of the tiles around it, at most ``most``: a tie of the claims is the stage's to
    decide, and nothing else. Blocks are taken in ``order`` (the tiles, those of a block beside each other); a
    block that another one has moved onto waits for the next call.

    Parameters
    ----------
    positions, start
        Now and by the stage, (n, 3), voxels.
    label
        Block of each tile.
    order
        Tiles in the order of their blocks.
    first, partner, claim, sign, measured
        As `count_votes` takes them; neighbours of a tile sorted by partner.
    weight, cost
        Of each claim: inverse variance, and the most that it can cost.
    near_first, near
        Tiles around tile t: ``near[near_first[t] : near_first[t + 1]]``.
    prior, most
        Of the stage: inverse variance, and the most that it can cost.

    Returns
    -------
    int
        How many blocks moved.
    """
    moved = 0
    waits = np.zeros(label.max() + 1, np.bool_)
    shift, best, lead = np.zeros(3), np.zeros(3), np.zeros(3)
    begin = 0
    while begin < order.size:
        block = label[order[begin]]
        end = begin
        while end < order.size and label[order[end]] == block:
            end += 1
        tiles = order[begin:end]
        begin = end
        if waits[block]:
            continue
        counted = _lead(lead, positions, start, label, tiles, near_first, near)
        shift[:] = 0
        facts = (first, partner, claim, sign, measured, weight, cost)
        least = _outer_cost(shift, positions, label, tiles, *facts)
        least += min(most, prior * counted * (lead**2).sum())
        least -= 1e-6
        target = -1
        for tile in tiles:
            for e in range(first[tile], first[tile + 1]):
                other = partner[e]
                if label[other] == block or cost[claim[e]] <= 0:
                    continue
                for x in range(3):
                    shift[x] = positions[other, x] - sign[e] * measured[claim[e], x] - positions[tile, x]
                value = _outer_cost(shift, positions, label, tiles, *facts)
                value += min(most, prior * counted * ((lead + shift) ** 2).sum())
                if value < least:
                    least, target = value, label[other]
                    best[:] = shift
        if target >= 0:
            for tile in tiles:
                positions[tile] += best
            waits[target] = True
            moved += 1
    return moved


@numba.njit(cache=True, nogil=True)
def _lead(lead, positions, start, label, tiles, near_first, near):
    """How much farther a block has moved from the stage than the tiles around it; the tiles that count."""
    lead[:] = 0
    counted = 0
    around = np.empty(3)
    for tile in tiles:
        around[:] = 0
        n = 0
        for e in range(near_first[tile], near_first[tile + 1]):
            other = near[e]
            if label[other] != label[tile]:
                around += positions[other] - start[other]
                n += 1
        if n:
            lead += positions[tile] - start[tile] - around / n
            counted += 1
    lead /= max(counted, 1)
    return counted


@numba.njit(cache=True, nogil=True)
def _outer_cost(shift, positions, label, tiles, first, partner, claim, sign, measured, weight, cost):
    """What the outer claims of a block cost when it is shifted."""
    total = 0.0
    for tile in tiles:
        e = first[tile]
        while e < first[tile + 1]:
            other = partner[e]
            least = np.inf
            while e < first[tile + 1] and partner[e] == other:
                gap = 0.0
                for x in range(3):
                    way = sign[e] * (positions[other, x] - positions[tile, x] - shift[x])
                    gap += (way - measured[claim[e], x]) ** 2
                least = min(least, weight[claim[e]] * gap, cost[claim[e]])
                e += 1
            if label[other] != label[tile]:
                total += least
    return total
