"""Rule warp_points: tables of points through a transform."""

from __future__ import annotations

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.logs import log
from weft.stores.tables import read_points, write_parquet
from weft.transforms import open_transform
from weft.transforms.points import check_micrometres
from weft.transforms.points import warp_points as through


def warp_points(*, source: str, image: str, transform: str, path: str, code: str, table: str) -> None:
    """Add the columns warped_z, warped_y, warped_x (um) and inside to a table of points of an image.

    A point outside the transform's domain is flagged (inside is false, its warped position is not a number).

    Raises
    ------
    ValueError
        When the table is broken, or its points seem to be in millimetres.
    """
    points = read_points(path)
    places = points[["z", "y", "x"]].to_numpy(float)
    check_micrometres(
        places, Grid.from_json(receipts.read(image)["grid"]), f"{path}: all {len(points)} points"
    )
    warped, inside = through(places, open_transform(transform))
    columns = {f"warped_{axis}": warped[:, n] for n, axis in enumerate("zyx")}
    write_parquet(points.assign(**columns, inside=inside), table)
    log.info("%d of %d points lie inside", int(np.sum(inside)), len(points))
    receipts.write_provenance(table, source=path, code=code)
