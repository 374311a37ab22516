"""Kernels of the chain on one thread: warp, reduce, fusion and pyramid, two of them against SimpleITK."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

import report
from weft.blocks import cut, region, with_halo
from weft.fusion import fuse_region, output_grid
from weft.grid import Grid
from weft.illumination.model import Illumination
from weft.image import Tile, TileSet
from weft.pyramid import downsample
from weft.stores.ome_zarr import create_level, write_region
from weft.transforms.reduce import BlockField, reduce_blocks
from weft.warp import warp

ATLEAST = 0.3  # CPU seconds of work per measurement: the clock of processes ticks in hundredths
FIELD_STEP = 4  # voxels between samples of the displacement field
OVERLAP = 0.12  # of a tile, on either side


def main() -> None:
    """Measure, write and print."""
    given = report.options(
        __doc__.splitlines()[0], sizes=[192], quick=[64], size=edge_of, explain="edge of the volume, voxels"
    )
    print(f"kernels ({report.load()})\n", flush=True)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    rows: list[report.Row] = []
    for size in given.sizes:
        for measure in (warp_rows, reduce_rows, fusion_rows, pyramid_rows):
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

        theirs = itk_warp(image, grid, affine, field, field_grid)
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
    """Blending of overlapping blocks of a displacement field."""
    speeds = []
    for seed in seeds:
        target = Grid((edge,) * 3, (20.0,) * 3)
        block, halo = (edge // 2,) * 3, (edge // 8,) * 3
        field = smooth_field(target, seed, largest=80.0)
        blocks = []
        for block_name in cut(target.shape, block):
            core = region(block_name, target.shape, block)
            part = with_halo(core, halo, target.shape)
            blocks.append(
                BlockField(target.crop(part), np.ascontiguousarray(field[(slice(None), *part)]), core)
            )
        speeds.append(
            per_second(lambda blocks=blocks, target=target: reduce_blocks(blocks, target), target.size) / 1e6
        )
    return [report.row(f"{name}.reduce.speed", speeds, "Mvectors/CPU-s")]


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
    return [report.row(f"{name}.fusion_and_codec.speed", speeds, "Mvox/CPU-s")]


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


def smooth_field(grid: Grid, seed: int, largest: float) -> np.ndarray:
    """A displacement field, (3, z, y, x) float32 um, on ``grid``."""
    rng = np.random.default_rng(seed)
    u = np.stack([ndimage.gaussian_filter(rng.normal(size=grid.shape), 3) for _ in range(3)])
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


def itk_warp(
    image: np.ndarray, grid: Grid, affine: np.ndarray, field: np.ndarray, field_grid: Grid
) -> Callable[[], np.ndarray]:
    """SimpleITK's resampling through the same transform; axes are (x, y, z) there."""
    moving = itk_image(image, grid)
    vectors = np.ascontiguousarray(np.moveaxis(field, 0, -1)[..., ::-1], float)
    displacement = sitk.DisplacementFieldTransform(itk_image(vectors, field_grid))
    linear = sitk.AffineTransform(3)
    linear.SetMatrix(affine[:3, :3][::-1, ::-1].ravel().tolist())
    linear.SetTranslation(affine[:3, 3][::-1].tolist())
    # A composite applies its last transform first.
    both = sitk.CompositeTransform([linear, displacement])
    return lambda: sitk.GetArrayViewFromImage(
        sitk.Resample(moving, moving, both, sitk.sitkLinear, 0.0)
    ).copy()


def itk_image(array: np.ndarray, grid: Grid) -> sitk.Image:
    """A SimpleITK image on a grid; a last axis beyond three holds vectors."""
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin[::-1])
    return image


if __name__ == "__main__":
    main()
