"""CZI mosaics: files by construction, and a real one against the library that owns the format."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from weft.readers import open_source
from weft.readers.czi import open_czi

XML = """<ImageDocument><Metadata><Scaling><Items>
<Distance Id="X"><Value>5E-07</Value></Distance><Distance Id="Y"><Value>6E-07</Value></Distance>{z}
</Items></Scaling><Information><Image><Dimensions><Channels><Channel Name="DAPI"/><Channel Name="EGFP"/></Channels>
</Dimensions></Image></Information></Metadata></ImageDocument>"""
DEPTH = '<Distance Id="Z"><Value>2E-06</Value></Distance>'
WITH_DEPTH = XML.format(z=DEPTH)
SHAPE = (2, 2, 3, 10, 12)  # tile, channel, z, y, x


def voxels(shape=SHAPE, dtype="u2"):
    return np.random.default_rng(0).integers(0, 60000 if dtype == "u2" else 250, shape).astype(dtype)


def entry(offset, pixel_type, compression, dimensions):
    """A directory entry: dimensions as (name, start, size, stored size)."""
    out = struct.pack("<2siqiiBB4si", b"DV", pixel_type, offset, 0, compression, 0, 0, b"", len(dimensions))
    return out + b"".join(
        struct.pack("<4siifi", n.encode(), s, c, 0.0, stored) for n, s, c, stored in dimensions
    )


def segment(name: bytes, body: bytes) -> bytes:
    size = -(-len(body) // 32) * 32
    return struct.pack("<16sqq", name, size, len(body)) + body.ljust(size, b"\0")


def write_czi(path: Path, planes, xml=WITH_DEPTH, pixel_type=1, compression=0, encode=np.ndarray.tobytes):
    """A file of ``planes``, each (further dimensions as a dict, corner (y, x), pixels)."""
    body, entries = b"", []
    start = 32 + 512
    for others, corner, pixels in planes:
        dimensions = [("X", corner[1], pixels.shape[1], others.get("stored", 0))]
        dimensions += [("Y", corner[0], pixels.shape[0], others.get("stored", 0))]
        dimensions += [(name, value, 1, 0) for name, value in others.items() if name != "stored"]
        head = entry(start + len(body), pixel_type, compression, dimensions)
        entries.append(head)
        data, metadata = encode(pixels), b"<METADATA />"
        block = struct.pack("<iiq", len(metadata), 0, len(data)) + head.ljust(240, b"\0") + metadata + data
        body += segment(b"ZISRAWSUBBLOCK", block)
    directory = start + len(body)
    body += segment(b"ZISRAWDIRECTORY", struct.pack("<i", len(entries)).ljust(128, b"\0") + b"".join(entries))
    metadata = start + len(body)
    body += segment(b"ZISRAWMETADATA", struct.pack("<ii", len(xml), 0).ljust(256, b"\0") + xml.encode())
    head = struct.pack("<iiii16s16siqqiq", 1, 0, 0, 0, b"g" * 16, b"g" * 16, 0, directory, metadata, 0, 0)
    path.write_bytes(struct.pack("<16sqq", b"ZISRAWFILE", 512, 512) + head.ljust(512, b"\0") + body)
    return path


def mosaic(volume, **more):
    """Planes of a mosaic whose tile n lies at (-3 n, 7 n)."""
    for tile, channel, z in np.ndindex(volume.shape[:3]):
        others = {"C": channel, "Z": z, "M": tile, **more}
        yield others, (-3 * tile, 7 * tile), volume[tile, channel, z]


def low_and_high(pixels):
    """Zstandard with a header that says that low and high bytes lie apart."""
    raw = np.frombuffer(pixels.tobytes(), "u1").reshape(-1, 2).T.tobytes()
    return bytes([3, 1, 1]) + imagecodecs.zstd_encode(raw)


@pytest.mark.parametrize(
    ("compression", "encode"),
    [
        (0, np.ndarray.tobytes),
        (4, lambda pixels: imagecodecs.jpegxr_encode(pixels)),
        (5, lambda pixels: imagecodecs.zstd_encode(pixels.tobytes())),
        (6, lambda pixels: b"\1" + imagecodecs.zstd_encode(pixels.tobytes())),
        (6, low_and_high),
    ],
)
def test_planes_are_the_written_ones(tmp_path, compression, encode):
    truth = voxels()
    path = write_czi(tmp_path / "m.czi", mosaic(truth), compression=compression, encode=encode)
    tiles = open_source(path)
    assert (tiles.shape, tiles.channels) == ((3, 10, 12), ("DAPI", "EGFP"))
    np.testing.assert_allclose(tiles.spacing, (2, 0.6, 0.5))
    np.testing.assert_allclose(tiles.positions(), [(0, 0, 0), (0, -1.8, 3.5)])
    region = (slice(1, 3), slice(2, 7), slice(5, 12))
    travelled = pickle.loads(pickle.dumps(tiles))  # noqa: S301
    for tile, channel in np.ndindex(2, 2):
        np.testing.assert_array_equal(tiles.read(tile, channel), truth[tile, channel])
        np.testing.assert_array_equal(travelled.read(tile, channel, region), truth[tile, channel][region])


def test_one_of_several_scenes_is_selected_and_pyramids_are_left_out(tmp_path):
    truth = voxels((2, 2, 1, 10, 12))
    planes = [*mosaic(truth, S=0), *mosaic(truth + 1, S=1)]
    planes.append(({"C": 0, "Z": 0, "M": 9, "S": 0, "stored": 5}, (0, 0), truth[0, 0, 0]))
    path = write_czi(tmp_path / "m.czi", planes, xml=XML.format(z=""))
    tiles = open_czi(path, select="S:1", channels=["a", "b"])
    assert (len(tiles.tiles), tiles.channels) == (2, ("a", "b"))
    np.testing.assert_allclose(tiles.spacing, (0.6, 0.6, 0.5))  # of one plane
    np.testing.assert_array_equal(tiles.read(1, 1), truth[1, 1] + 1)
    with pytest.raises(
        ValueError, match="dimension S has the values 0, 1; say which is wanted as `select=S:0`"
    ):
        open_czi(path)
    with pytest.raises(ValueError, match="dimension S has the values 0, 1"):
        open_czi(path, select={"S": 7})
    with pytest.raises(ValueError, match="select names 'T'; the file's further dimensions are S"):
        open_czi(path, select="T:0")


def test_one_colour_is_read_when_it_is_named(tmp_path):
    colours = voxels((10, 12, 3), "u1")  # blue, green, red in the file
    path = write_czi(tmp_path / "m.czi", [({"M": 0}, (0, 0), colours)], xml=XML.format(z=""), pixel_type=3)
    for n, name in enumerate(("blue", "green", "red")):
        np.testing.assert_array_equal(open_czi(path, sample=name).read(0)[0], colours[..., n])
    with pytest.raises(ValueError, match="its pixels have 3 colours"):
        open_czi(path)


def plane(shape=(10, 12), **others):
    return others, (0, 0), np.zeros(shape, "u2")


@pytest.mark.parametrize(
    ("planes", "options", "message"),
    [
        ([plane(M=0), plane((10, 11), M=1)], {}, r"tile 1 has \(10, 11\) pixels"),
        ([plane(M=0, Z=0), plane(M=0, Z=1), plane(M=1, Z=0)], {}, "plane 1 of tile 1, channel 0 is missing"),
        (
            [plane(M=0, Z=0), ({"M": 0, "Z": 1}, (1, 0), np.zeros((10, 12), "u2"))],
            {},
            "tile 0 lie at 2 places",
        ),
        ([plane(M=0), plane(M=0)], {}, "a plane of a tile is there twice"),
        ([plane(M=0)], {"compression": 500}, "compression 500 is unknown"),
        ([plane(M=0)], {"xml": "<Image"}, "its metadata cannot be read as XML"),
        (
            [plane(M=0)],
            {"xml": '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'},
            "its metadata cannot be read as XML",
        ),
        ([plane(M=0)], {"xml": "<a/>"}, "no voxel size is stated"),
        ([plane(Z=0), plane(Z=1)], {"xml": XML.format(z="")}, "no voxel size is stated"),
        ([], {}, "it holds no planes"),
    ],
)
def test_mosaics_are_checked(tmp_path, planes, options, message):
    path = write_czi(tmp_path / "m.czi", planes, **options)
    with pytest.raises(ValueError, match=message):
        open_czi(path)


def test_broken_files_are_refused(tmp_path):
    path = write_czi(tmp_path / "m.czi", mosaic(voxels()))
    whole = path.read_bytes()
    for size in (5, 100, len(whole) - 2000):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"m\.czi: cannot be read as a CZI file"):
            open_czi(path)
    tiles = open_czi(write_czi(path, mosaic(voxels())))
    path.write_bytes(whole[:2000])
    with pytest.raises(ValueError, match=r"m\.czi: cannot be read as a CZI file \(truncated"):
        tiles.read(1)


def test_a_real_mosaic_is_what_czifile_reads(data_root):
    import czifile

    path = data_root / "czi_mosaic/src/multiview_stitcher/test-datasets/mosaic_test.czi"
    tiles = open_source(path)
    assert (tiles.shape, str(tiles.dtype), tiles.channels) == ((1, 624, 924), "uint16", ("EGFP",))
    with czifile.CziFile(str(path)) as file:
        for n, block in enumerate(file.subblocks()):
            np.testing.assert_array_equal(tiles.read(n)[0], block.data().squeeze())
            part = (slice(0, 1), slice(100, 140), slice(30, 77))
            np.testing.assert_array_equal(tiles.read(n, 0, part)[0], block.data().squeeze()[100:140, 30:77])
    edge = tiles.spacing[2]
    np.testing.assert_allclose(tiles.positions() / edge, [(0, 0, 0), (0, 0, 832)])
