"""BigDataViewer projects: HDF5, N5 and TIFF by construction, with known positions."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorstore
import tifffile
import zarr

from weft.readers import open_source
from weft.readers.bdv import open_bdv

SHAPE = (4, 9, 11)
VOXEL = (2.0, 0.5, 0.5)  # um
SHIFTS = [(0, 0, 0), (1, -2, 8.5), (-0.5, 7, 0.25)]  # voxels, (z, y, x), of three tiles
REGION = (slice(1, 4), slice(2, 7), slice(3, 11))


def voxels(seed=0):
    """Tile, channel, z, y, x; above 2^15, so that the sign matters."""
    return np.random.default_rng(seed).integers(0, 65000, (3, 2, *SHAPE)).astype("u2")


def matrix(linear, shift) -> str:
    """Rows of an affine, (x, y, z)."""
    return " ".join(f"{v:.9g}" for v in np.column_stack([linear, shift]).ravel())


def write_project(
    folder: Path, loader: str, *, unit="um", transforms=None, views=None, more="", times=1
) -> Path:
    """A project of three tiles and two channels: setup = 2 * tile + channel.

    The project's space is in voxels of x, as BigStitcher makes it: calibration, grid and refinement are listed last
    to first.
    """
    setups, places = [], []
    for tile in range(3):
        for channel in range(2):
            number = 2 * tile + channel
            extra = "".join(f"<{k}>{v}</{k}>" for k, v in (views or {}).get(number, {}).items())
            setups.append(
                f"<ViewSetup><id>{number}</id><size>{' '.join(map(str, SHAPE[::-1]))}</size>"
                f"<voxelSize><unit>{unit}</unit><size>0.5 0.5 2.0</size></voxelSize>"
                f"<attributes><channel>{channel}</channel><tile>{tile}</tile>{extra}</attributes></ViewSetup>"
            )
            z, y, x = SHIFTS[tile]
            grid, fine = np.array([np.floor(x), 0, 0]), np.array([x - np.floor(x), y, 4 * z])
            chain = (transforms or {}).get(
                tile,
                [matrix(np.eye(3), fine), matrix(np.eye(3), grid), matrix(np.diag([1, 1, 4]), [0, 0, 0])],
            )
            steps = "".join(
                f'<ViewTransform type="affine"><affine>{m}</affine></ViewTransform>' for m in chain
            )
            places += [
                f'<ViewRegistration timepoint="{t}" setup="{number}">{steps}</ViewRegistration>'
                for t in range(times)
            ]
    path = folder / "dataset.xml"
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<SpimData version="0.2"><BasePath type="relative">.</BasePath>'
        f"<SequenceDescription>{loader}<ViewSetups>{''.join(setups)}"
        '<Attributes name="channel"><Channel><id>0</id><name>488</name></Channel>'
        "<Channel><id>1</id><name>561</name></Channel></Attributes></ViewSetups>"
        f'<Timepoints type="range"><first>0</first><last>{times - 1}</last></Timepoints>{more}</SequenceDescription>'
        f"<ViewRegistrations>{''.join(places)}</ViewRegistrations></SpimData>"
    )
    return path


def hdf5(folder: Path, truth, **options) -> Path:
    with h5py.File(folder / "d.h5", "w") as file:
        for tile, channel in np.ndindex(3, 2):
            data = truth[tile, channel].view("i2")
            name = f"t00000/s{2 * tile + channel:02}/0/cells"
            file.create_dataset(name, data=data, chunks=(2, 4, 4), compression="gzip")
    loader = '<ImageLoader format="bdv.hdf5"><hdf5 type="relative">d.h5</hdf5></ImageLoader>'
    return write_project(folder, loader, **options)


def n5(folder: Path, truth, **options) -> Path:
    for tile, channel in np.ndindex(3, 2):
        place = folder / f"d.n5/setup{2 * tile + channel}/timepoint0/s0"
        metadata = {"dimensions": SHAPE[::-1], "blockSize": (4, 4, 2), "dataType": "uint16"}
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{place}/"}, "create": True}
        spec["metadata"] = metadata | {"compression": {"type": "gzip"}}
        tensorstore.open(spec).result().write(truth[tile, channel].T).result()
    loader = '<ImageLoader format="bdv.n5" version="1.0"><n5 type="relative">d.n5</n5></ImageLoader>'
    return write_project(folder, loader, **options)


def ome_zarr(folder: Path, truth, *, old=False, **options) -> Path:
    """One image of axes (t, c, z, y, x) for each view, named as BigStitcher does now or, ``old``, as it did."""
    groups = []
    for tile, channel in np.ndindex(3, 2):
        name = f"s{2 * tile + channel}-t0.zarr"
        group = zarr.open_group(str(folder / "d.ome.zarr" / name), mode="w", zarr_format=2)
        group.create_array("0", data=truth[tile, channel][None, None], chunks=(1, 1, 2, 4, 4))
        axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
        axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
        scale = {"type": "scale", "scale": [1, 1, 1, 1, 1]}
        level = {"path": "0", "coordinateTransformations": [scale]}
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]
        head = f'<zgroup setup="{2 * tile + channel}"'
        groups.append(
            f'{head} timepoint="0"><path>{name}</path></zgroup>'
            if old
            else f'{head} tp="0" path="{name}" indicies="0 0"/>'
        )
    loader = (
        '<ImageLoader format="bdv.multimg.zarr" version="3.0"><zarr type="relative">d.ome.zarr</zarr>'
        f"<zgroups>{''.join(groups)}</zgroups></ImageLoader>"
    )
    return write_project(folder, loader, **options)


def old_ome_zarr(folder: Path, truth) -> Path:
    return ome_zarr(folder, truth, old=True)


def files(folder: Path, truth, **options) -> Path:
    maps = []
    for tile in range(3):
        tifffile.imwrite(
            folder / f"t{tile}.tif", truth[tile], photometric="minisblack", metadata={"axes": "CZYX"}
        )
        maps += [
            f'<FileMapping view_setup="{2 * tile + c}" timepoint="0" series="0" channel="{c}">'
            f'<file type="relative">t{tile}.tif</file></FileMapping>'
            for c in range(2)
        ]
    loader = f'<ImageLoader format="spimreconstruction.filemap2"><files>{"".join(maps)}</files></ImageLoader>'
    return write_project(folder, loader, **options)


@pytest.mark.parametrize("write", [hdf5, n5, ome_zarr, old_ome_zarr, files])
def test_voxels_and_positions_are_the_written_ones(tmp_path, write):
    truth = voxels()
    tiles = open_source(write(tmp_path, truth))
    assert (tiles.shape, tiles.spacing, tiles.channels) == (SHAPE, VOXEL, ("488", "561"))
    np.testing.assert_allclose(tiles.positions(), np.array(SHIFTS) * VOXEL, atol=1e-6)
    travelled = pickle.loads(pickle.dumps(tiles))  # noqa: S301
    for tile, channel in np.ndindex(3, 2):
        np.testing.assert_array_equal(tiles.read(tile, channel), truth[tile, channel])
        np.testing.assert_array_equal(travelled.read(tile, channel, REGION), truth[tile, channel][REGION])
    one = open_bdv(tmp_path, channels=["561"])
    np.testing.assert_array_equal(one.read(1), truth[1, 1])


def test_units_and_missing_views(tmp_path):
    # In nanometres, and the project's space in the unit of its voxels, as BigDataViewer exports it.
    transforms = {
        t: [matrix(np.diag([0.5, 0.5, 2.0]), np.array(SHIFTS[t])[::-1] * [0.5, 0.5, 2.0])] for t in range(3)
    }
    missing = '<MissingViews><MissingView timepoint="0" setup="3"/></MissingViews>'
    tiles = open_bdv(hdf5(tmp_path, voxels(), unit="nm", transforms=transforms, more=missing))
    assert [tile.name for tile in tiles.tiles] == ["tile0", "tile2"]
    assert tiles.missing == ("tile1",)
    np.testing.assert_allclose(tiles.spacing, np.array(VOXEL) / 1000)
    np.testing.assert_allclose(tiles.positions(), np.array(SHIFTS)[[0, 2]] * VOXEL / 1000, atol=1e-9)


def test_turned_tiles_are_refused_or_placed_by_their_centre(tmp_path):
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    scale = np.diag([1, 1, 4])
    centre = (np.array(SHAPE[::-1]) - 1) / 2 * [1, 1, 4]
    about = centre - turn @ centre + [3, 0, 0]  # turned about its centre, then shifted by 3 along x
    path = hdf5(tmp_path, voxels(), transforms={2: [matrix(turn, about), matrix(scale, [0, 0, 0])]})
    with pytest.raises(
        ValueError, match=r"tile 2 is turned, sheared or scaled, by [0-9.]+ voxels at its corners"
    ):
        open_bdv(path)
    tiles = open_bdv(path, affine="centre")
    np.testing.assert_allclose(tiles.positions()[2], (0, 0, 1.5), atol=1e-6)
    # A hair of rotation that no voxel feels is a shift.
    small = hdf5(
        tmp_path,
        voxels(),
        transforms={2: [matrix(np.eye(3) + 1e-3 * (turn - np.eye(3)), [0, 0, 0]), matrix(scale, [0, 0, 0])]},
    )
    assert len(open_bdv(small).tiles) == 3


def test_angles_and_time_points_are_selected(tmp_path):
    views = {n: {"angle": int(n >= 4), "illumination": 0} for n in range(6)}
    path = hdf5(tmp_path, voxels(), views=views, times=2)
    with pytest.raises(ValueError, match="there are 2 time points; say which is wanted as `select=time:0`"):
        open_bdv(path)
    with pytest.raises(
        ValueError, match="angle has the values 0, 1; say which is wanted as `select=angle:0`"
    ):
        open_bdv(path, select="time:0")
    assert len(open_bdv(path, select="time:0,angle:1").tiles) == 1
    with pytest.raises(ValueError, match="it has no data set t00001/s00/0/cells"):
        open_bdv(path, select="time:1,angle:0")
    with pytest.raises(ValueError, match="select names 'scene'"):
        open_bdv(path, select="time:0,scene:1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<SpimData", '<!DOCTYPE a [<!ENTITY b "c">]><SpimData'), "defines entities"),
        (("SpimData", "Other"), "its root is <Other>; wanted <SpimData>"),
        (("bdv.hdf5", "bdv.imaris"), "ImageLoader format is 'bdv.imaris'; wanted one of bdv.hdf5"),
        ((">d.h5<", ">../d.h5<"), r"the path '\.\./d\.h5' leaves"),
        ((">d.h5<", ">/etc/passwd<"), "the path '/etc/passwd' leaves"),
        ((">.</Base", ">../..</Base"), r"the path '\.\./\.\.' leaves"),
        ((">d.h5<", ">e.h5<"), "e.h5: no such source"),
        (
            ("<size>11 9 4</size>", "<size>11 9 5</size>"),
            r"has \(4, 9, 11\) voxels \(z, y, x\); the project states",
        ),
        (("<size>0.5 0.5 2.0</size>", "<size>0.5 0.5</size>"), "wanted three numbers"),
        (("<unit>um</unit>", "<unit>furlong</unit>"), "unknown unit of length 'furlong'"),
        (('<ViewRegistration timepoint="0" setup="2">', '<Other setup="2">'), "cannot be read as XML"),
        (('setup="2"', 'setup="77"'), "view setup 2 has no registration at time point 0"),
        (('type="affine"', 'type="spline"'), "is of type 'spline'; wanted affine"),
        (("<affine>1 0 ", "<affine>1 "), "it has 11 numbers; wanted 12"),
        (("<affine>1 0 ", "<affine>0 0 "), "is singular"),
        (("<tile>1</tile>", "<tile>0</tile>"), "tile 0 has channel 0 twice"),
        (('type="range"', 'type="some"'), "the type of its time points is 'some'"),
    ],
)
def test_projects_are_checked(tmp_path, change, message):
    path = hdf5(tmp_path, voxels())
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_bdv(path)


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "p").mkdir()
    path = hdf5(tmp_path / "p", voxels())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["cells"] = np.zeros(SHAPE, "i2")
    with h5py.File(tmp_path / "p/d.h5", "a") as file:
        del file["t00000/s00/0/cells"]
        file["t00000/s00/0/cells"] = h5py.ExternalLink("../secret.h5", "cells")
    with pytest.raises(ValueError, match=r"the path '\.\./secret\.h5' leaves"):
        open_bdv(path)
    # A partition, as BigDataViewer writes it, lies beside its project.
    (tmp_path / "secret.h5").rename(tmp_path / "p/part.h5")
    with h5py.File(tmp_path / "p/d.h5", "a") as file:
        del file["t00000/s00"]
        file["t00000/s00"] = h5py.ExternalLink("part.h5", "s00")
    with h5py.File(tmp_path / "p/part.h5", "w") as file:
        file["s00/0/cells"] = np.full(SHAPE, 7, "i2")
    assert (open_bdv(path).read(0) == 7).all()
    (tmp_path / "p/part.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"d\.h5: cannot be read as an HDF5 file"):
        open_bdv(path)


def test_files_that_weft_does_not_read_are_named(tmp_path):
    path = files(tmp_path, voxels())
    text = path.read_text()
    path.write_text(text.replace("t1.tif", "t1.czi"))
    with pytest.raises(ValueError, match=r"view setup 2 is series 0 of t1\.czi; wanted a TIFF file"):
        open_bdv(path)
    path.write_text(text.replace('channel="1"', 'channel="2"'))
    with pytest.raises(ValueError, match=r"t0\.tif has 2 channels; wanted channel 2 of it"):
        open_bdv(path)
    attributes = n5(tmp_path, voxels()).parent / "d.n5/setup0/timepoint0/s0/attributes.json"
    assert json.loads(attributes.read_text())["dataType"] == "uint16"
