"""Kernels of the chain on one thread: warp, reduce, invert, fusion and pyramid, four of them against a peer."""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

import kernel_peers
import report
from weft.fusion import fuse_region, output_grid
from weft.grid import Grid
from weft.illumination.model import Illumination
from weft.image import Tile, TileSet
from weft.pyramid import downsample
from weft.registration.combine import combine_blocks
from weft.registration.plan import block_field_grid, field_core, field_grid, plan_stage
from weft.stores.ome_zarr import create_level, write_region
from weft.transforms.formats.ngff import FieldWriter
from weft.transforms.interpolate import resample_field
from weft.transforms.invert import find_inverse, invert_displacements
from weft.transforms.reduce import BlockField, reduce_blocks
from weft.transforms.round_trip import round_trip
from weft.warp import warp

EDGE = 192
ATLEAST = 0.3  # CPU seconds of work per measurement: the clock of processes ticks in hundredths
FIELD_STEP = 4  # voxels between samples of the displacement field
PEER_SAMPLES = 500  # of a field that a slow peer blends
OVERLAP = 0.12  # of a tile, on either side


def main() -> None:
    """Measure, write and print."""
    given = report.options(
        __doc__.splitlines()[0], sizes=[EDGE], quick=[64], size=edge_of, explain="edge of the volume, voxels"
    )
    print(f"kernels ({report.load()})\n", flush=True)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    rows: list[report.Row] = []
    for size in given.sizes:
        for measure in (warp_rows, reduce_rows, invert_rows, fusion_rows, pyramid_rows):
            rows += measure(f"kernels.{size}", size, given.seeds)
    report.show(rows)
    report.write(rows, given.json)


def edge_of(text: str) -> int:
    """The edge of a volume, from the command line."""
    if not text.isdecimal() or int(text) < 16:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 16 voxels; found {text!r}")
    return int(text)


def warp_rows(name: str, edge: int, seeds: list[int]) -> list[report.Row]:
    """Trilinear resampling through displacement field and affine, against SimpleITK's, results compared."""
    rows: dict[str, list[float]] = {"ours": [], "theirs": [], "agree": []}
    for seed in seeds:
        grid = Grid((edge,) * 3, (10.0,) * 3)
        image = smooth_image(edge, seed)
        field_grid = grid.coarsen((FIELD_STEP,) * 3)
        field = smooth_field(field_grid, seed, largest=80.0)
        affine = np.array(
            [[1.02, 0.03, 0, -9], [-0.03, 0.99, 0.02, 14], [0, -0.02, 1.01, 5], [0, 0, 0, 1]], float
        )

        def ours(image=image, grid=grid, field=field, field_grid=field_grid, affine=affine) -> np.ndarray:
            return warp(image, grid, affine, field, field_grid, grid)[0]

        theirs = kernel_peers.itk_warp(image, grid, affine, field, field_grid)
        # The border rules differ by nothing but rounding; half a voxel from the border is enough to leave them out.
        inner = (slice(edge // 4, -edge // 4),) * 3
        difference = np.abs(ours()[inner].astype(int) - theirs()[inner])
        rows["ours"].append(per_second(ours, grid.size) / 1e6)
        rows["theirs"].append(per_second(theirs, grid.size) / 1e6)
        rows["agree"].append(int(difference.max()))
    ratio = [a / b for a, b in zip(rows["ours"], rows["theirs"], strict=True)]
    return [
        report.row(f"{name}.warp.speed", rows["ours"], "Mvox/CPU-s"),
        report.row(f"{name}.warp.simpleitk_speed", rows["theirs"], "Mvox/CPU-s"),
        report.row(f"{name}.warp.ratio", ratio, "ratio", at_least=1),
        report.row(f"{name}.warp.largest_difference", rows["agree"], "grey levels", at_most=1),
    ]


def reduce_rows(name: str, edge: int, seeds: list[int]) -> list[report.Row]:
    """Blocks of displacements to one field: the blending alone, and all that the step does, from files to a store.

    itk-dreg blends in Python, point by point: it is given a few samples of the same blocks, and compared with the step.
    """
    values: dict[str, list[float]] = {key: [] for key in ("blending", "step", "theirs", "agree")}
    for seed in seeds:
        grid = Grid((edge,) * 3, (20.0,) * 3)
        stage = {"name": "fine", "level": grid.spacing[0], "block": edge // 2, "overlap": edge // 8}
        plan = plan_stage(grid, stage)
        target = field_grid(plan, 2)
        field = smooth_field(target, seed, largest=80.0)
        settings = {"method": "distance_weighted", "field_factor": 2, "agreement": 1.0, "unfold": True}
        row = {"status": "ok", "used": "deformable", "largest_displacement_um": 80.0}
        records = dict.fromkeys(plan["ids"], row)
        with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
            blocks = []
            for block in plan["ids"]:
                part = block_field_grid(plan, block)
                u = resample_field(field, target, part)
                np.save(f"{folder}/{block}.npy", u)
                blocks.append(BlockField(part, u, field_core(plan, block, 2)))

            def blend(blocks=blocks, target=target) -> np.ndarray:
                return reduce_blocks(blocks, target)

            def step(folder=folder, plan=plan, target=target, settings=settings, records=records) -> None:
                def load(one: str) -> np.ndarray:
                    return np.load(f"{folder}/{one}.npy", mmap_mode="r")

                out = FieldWriter(f"{folder}/field.ome.zarr", target)
                combine_blocks(plan, load, records, None, settings, None, out)

            values["blending"].append(per_second(blend, target.size) / 1e6)
            values["step"].append(per_second(step, target.size) / 1e6)
            theirs = kernel_peers.dreg_blend(blocks)
            if theirs is None:
                continue
            index = np.random.default_rng(seed).integers(0, target.shape, (PEER_SAMPLES, 3))
            points = index * np.array(target.spacing) + target.origin
            values["theirs"].append(
                per_second(lambda theirs=theirs, points=points: theirs(points), len(points))
            )
            there = theirs(points)
            values["agree"].append(float(np.abs(blend()[:, *index.T].T - there).max()))
    bar = 5 if edge >= EDGE else None  # in a small field the opening of the store is most of it
    rows = [
        report.row(f"{name}.reduce.blending_speed", values["blending"], "Mvectors/CPU-s"),
        report.row(f"{name}.reduce.step_speed", values["step"], "Mvectors/CPU-s", at_least=bar),
    ]
    if values["theirs"]:
        ratio = [1e6 * a / b for a, b in zip(values["step"], values["theirs"], strict=True)]
        rows += [
            report.row(f"{name}.reduce.itk_dreg_speed", values["theirs"], "vectors/CPU-s"),
            report.row(f"{name}.reduce.itk_dreg_ratio", ratio, "ratio", at_least=1),
            report.row(f"{name}.reduce.itk_dreg_largest_difference", values["agree"], "um", at_most=0.01),
        ]
    return rows


def invert_rows(name: str, edge: int, seeds: list[int]) -> list[report.Row]:
    """The inverse of a field, against SimpleITK's two and against the forward resampling; round trips in voxels."""
    values: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        grid = Grid((edge,) * 3, (10.0,) * 3)
        u_grid = grid.coarsen((2, 2, 2))
        u = smooth_field(u_grid, seed, largest=60.0, sigma=6)
        image = np.random.default_rng(seed).integers(0, 60_000, grid.shape, np.uint16)

        def solve(u=u, u_grid=u_grid) -> tuple[np.ndarray, Grid]:
            return invert_displacements(u, u_grid, tolerance=kernel_peers.TOLERANCE)

        def solve_and_measure(u=u, u_grid=u_grid, grid=grid) -> None:
            find_inverse(u, u_grid, grid, voxel=grid.spacing[0], supersample=1)

        def resample(image=image, u=u, u_grid=u_grid, grid=grid) -> None:
            warp(image, grid, np.eye(4), u, u_grid, grid)

        # SimpleITK keeps the field's grid: near its border the points have left it.
        inner = grid.crop((slice(edge // 4, -edge // 4),) * 3)
        ahead = per_second(resample, 1)
        values["speed"].append(per_second(solve, u_grid.size) / 1e6)
        values["round_trip_p95"].append(round_trip(u, u_grid, *solve(), inner)["p95"] / grid.spacing[0])
        for peer, invert in kernel_peers.itk_inverses(u, u_grid).items():
            trip = round_trip(u, u_grid, invert(), u_grid, inner)
            values[f"{peer}_speed"].append(per_second(invert, u_grid.size) / 1e6)
            values[f"{peer}_round_trip_p95"].append(trip["p95"] / grid.spacing[0])
            values[f"{peer}_ratio"].append(values["speed"][-1] / values[f"{peer}_speed"][-1])
        values["of_resampling"].append(ahead / per_second(solve, 1))
        values["and_round_trip_of_resampling"].append(ahead / per_second(solve_and_measure, 1))
    units = {"speed": "Mvectors/CPU-s", "p95": "voxels"}
    bars = {"ratio": {"at_least": 1}, "resampling": {"at_most": 3}}
    return [
        report.row(
            f"{name}.invert.{key}",
            measured,
            units.get(key.rpartition("_")[2], "ratio"),
            **bars.get(key.rpartition("_")[2], {}),
        )
        for key, measured in values.items()
    ]


def fusion_rows(name: str, edge: int, seeds: list[int]) -> list[report.Row]:
    """Blending of 2 x 2 tiles at sub-voxel positions, compressed and written to a store."""
    speeds = []
    for seed in seeds:
        tiles, lights = tile_set(edge, seed)
        positions = tiles.positions() + np.random.default_rng(seed).uniform(0, 2, (4, 3))
        grid = output_grid(positions, tiles.shape, tiles.spacing)
        whole = tuple(slice(0, n) for n in grid.shape)
        with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
            array = create_level(
                Path(folder) / "fused.zarr", grid, 1, "uint16", chunk=(64,) * 3, shard=(128, 256, 256)
            )

            def fuse(
                tiles=tiles, positions=positions, lights=lights, grid=grid, whole=whole, array=array
            ) -> None:
                voxels, _ = fuse_region(tiles, 0, positions, lights, grid, whole, offset=100)
                write_region(array, 0, whole, voxels, "")

            speeds.append(per_second(fuse, grid.size) / 1e6)
    return [report.row(f"{name}.fusion_and_codec.speed", speeds, "Mvox/CPU-s", at_least=65)]


def pyramid_rows(name: str, edge: int, seeds: list[int]) -> list[report.Row]:
    """Means of 2 x 2 x 2 voxels, against SimpleITK's BinShrink, results compared."""
    ours, theirs, differences = [], [], []
    for seed in seeds:
        image = smooth_image(edge, seed)
        source = sitk.GetImageFromArray(image)
        binned = sitk.GetArrayFromImage(sitk.BinShrink(source, [2, 2, 2]))
        differences.append(int(np.abs(downsample(image, (2, 2, 2)).astype(int) - binned).max()))
        ours.append(per_second(lambda image=image: downsample(image, (2, 2, 2)), image.nbytes) / 1e9)
        theirs.append(per_second(lambda source=source: sitk.BinShrink(source, [2, 2, 2]), image.nbytes) / 1e9)
    ratio = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [
        report.row(f"{name}.pyramid.speed", ours, "GB/CPU-s"),
        report.row(f"{name}.pyramid.simpleitk_speed", theirs, "GB/CPU-s"),
        report.row(f"{name}.pyramid.ratio", ratio, "ratio", at_least=1),
        report.row(f"{name}.pyramid.largest_difference", differences, "grey levels", at_most=1),
    ]


# ------------------------------------------------------------------ measuring
def per_second(work: Callable[[], object], amount: float) -> float:
    """How much of ``amount`` one CPU second does, after a first call that compiles; best of three."""
    work()
    repeats = 1
    while repeated(work, repeats) < ATLEAST:
        repeats *= 2
    return amount * repeats / min(repeated(work, repeats) for _ in range(3))


def repeated(work: Callable[[], object], times: int) -> float:
    """CPU seconds of several calls."""
    return report.cpu_seconds(lambda: [work() for _ in range(times)])


# ------------------------------------------------------------------ data
def smooth_image(edge: int, seed: int) -> np.ndarray:
    """uint16 voxels, correlated over a few of them, as a microscope's are."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(edge,) * 3), 2)
    return (20_000 + 15_000 * noise / np.abs(noise).max()).astype(np.uint16)


def smooth_field(grid: Grid, seed: int, largest: float, sigma: float = 3) -> np.ndarray:
    """A displacement field, (3, z, y, x) float32 um, on ``grid``, smooth over ``sigma`` samples."""
    rng = np.random.default_rng(seed)
    u = np.stack([ndimage.gaussian_filter(rng.normal(size=grid.shape), sigma) for _ in range(3)])
    return (u * largest / np.abs(u).max()).astype(np.float32)


def tile_set(edge: int, seed: int) -> tuple[TileSet, Illumination]:
    """2 x 2 tiles of ``edge`` voxels per axis, in memory, and their gain and dark."""
    data = [smooth_image(edge, 4 * seed + n) for n in range(4)]
    step = round(edge * (1 - OVERLAP))
    places = [(0.0, row * step, column * step) for row in (0, 1) for column in (0, 1)]
    tiles = TileSet(
        tiles=tuple(Tile(f"tile{n}", place) for n, place in enumerate(places)),
        shape=(edge,) * 3,
        spacing=(1.0, 1.0, 1.0),
        dtype=np.dtype(np.uint16),
        channels=("0",),
        reader=lambda tile, channel, where: data[tile][where],
    )
    gain = np.linspace(0.8, 1.2, edge * edge, dtype=np.float32).reshape(edge, edge)
    return tiles, Illumination(gain, np.full((edge, edge), 100, np.float32))


if __name__ == "__main__":
    main()
