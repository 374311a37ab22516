"""TeraStitcher projects: read as TeraStitcher writes them, and handed back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile

from weft import receipts
from weft.__main__ import main
from weft.readers import open_source
from weft.readers.terastitcher import open_terastitcher
from weft.readers.terastitcher_project import BLOCKS, PLANES, Displacement, read_project, write_project
from weft.steps.export_terastitcher import export_terastitcher
from weft.steps.index_tiles import index_tiles

VOXEL = (5.0, 0.8, 0.9)  # um, (z, y, x)
# ABS_D, ABS_V, ABS_H of a 2 x 2 grid whose last cell was not scanned.
PLACES = {(0, 0): (0, 0, 0), (0, 1): (1, -2, 51), (1, 0): (-1, 42, 3)}
HEAD = """<?xml version="1.0" encoding="UTF-8" ?>
<!DOCTYPE TeraStitcher SYSTEM "TeraStitcher.DTD">
"""
PAIR = """<Displacement TYPE="MIP_NCC">
<V displ="{1}" default_displ="{4}" reliability="0.9" nccPeak="0.95" nccWidth="3" nccWRangeThr="29" nccInvWidth="30" delay="0"/>
<H displ="{2}" default_displ="{5}" reliability="0.8" nccPeak="0.85" nccWidth="5" nccWRangeThr="29" nccInvWidth="30" delay="0"/>
<D displ="{0}" default_displ="{3}" reliability="0.5" nccPeak="0.6" nccWidth="10" nccWRangeThr="29" nccInvWidth="30" delay="0"/>
</Displacement>"""


def project_xml(layout, stacks_dir, *, ranges="[0,6)", extra=None, reference="1,2,3", old=False):
    """A project in TeraStitcher's own words; ``extra`` adds attributes to the stack of a place."""
    a, b, c = reference.split(",")
    lines = [
        f'<TeraStitcher volume_format="{layout}" input_plugin="tiff2D">' if not old else "<TeraStitcher>",
        f'<stacks_dir value="{stacks_dir}"/><mdata_bin value="{stacks_dir}/mdata.bin"/>',
        "" if old else f'<ref_sys ref1="{a}" ref2="{b}" ref3="{c}"/>',
        '<voxel_dims V="0.8" H="-0.9" D="5"/><origin V="0.5" H="0" D="-0.001"/>',
        '<mechanical_displacements V="32" H="45"/>',
        '<dimensions stack_rows="2" stack_columns="2" stack_slices="6"/><STACKS>',
    ]
    for row in range(2):
        for column in range(2):
            at = row, column
            z, y, x = PLACES.get(at, (0, 0, 0))
            seen = at in PLACES
            more = (extra or {}).get(at, "")
            blocks = 'N_BLOCKS="2" BLOCK_SIZES="4,2" BLOCKS_ABS_D="0,4" ' if layout == BLOCKS else ""
            lines.append(
                f'<Stack {blocks}N_CHANS="1" N_BYTESxCHAN="2" ROW="{row}" COL="{column}" ABS_V="{y}" ABS_H="{x}" ABS_D="{z}" '
                f'STITCHABLE="yes" DIR_NAME="{f"{row}/{row}_{column}" if seen else ""}" '
                + (more or ("" if old else f'Z_RANGES="{ranges if seen else ""}" IMG_REGEX=".*\\.tif"'))
                + ">"
            )
            east = PAIR.format(1, -2, 51, 0, 0, 50) if at == (0, 0) else ""
            west = PAIR.format(-1, 2, -51, 0, 0, -50) if at == (0, 1) else ""
            lines.append(f"<NORTH_displacements/><EAST_displacements>{east}</EAST_displacements>")
            lines.append(f"<SOUTH_displacements/><WEST_displacements>{west}</WEST_displacements></Stack>")
    return HEAD + "\n".join([*lines, "</STACKS></TeraStitcher>"])


def write_stacks(folder: Path, layout: str, planes=6) -> dict[tuple[int, int], np.ndarray]:
    truth = {}
    for row, column in PLACES:
        volume = np.random.default_rng(row * 2 + column).integers(0, 60000, (planes, 9, 12)).astype("u2")
        truth[row, column] = volume
        place = folder / str(row) / f"{row}_{column}"
        place.mkdir(parents=True)
        (place / "notes.txt").write_text("no image")
        if layout == PLANES:
            for z, plane in enumerate(volume):
                tifffile.imwrite(place / f"{z:06}.tif", plane)
        else:
            tifffile.imwrite(place / "0000.tif", volume[:4], photometric="minisblack")
            tifffile.imwrite(place / "0400.tif", volume[4:], photometric="minisblack", compression="zlib")
    return truth


@pytest.mark.parametrize("layout", [PLANES, BLOCKS])
def test_both_layouts_are_read(tmp_path, layout):
    truth = write_stacks(tmp_path, layout)
    (tmp_path / "xml_merging.xml").write_text(project_xml(layout, tmp_path))
    tiles = open_source(tmp_path / "xml_merging.xml")
    assert (tiles.shape, tiles.spacing, tiles.missing) == ((6, 9, 12), VOXEL, ("r1_c1",))
    for n, (at, place) in enumerate(PLACES.items()):
        origin = np.array([-1.0, 500.0, 0.0])  # um
        np.testing.assert_allclose(tiles.tiles[n].position, origin + np.array(place) * VOXEL)
        assert (tiles.tiles[n].row, tiles.tiles[n].column) == at
        np.testing.assert_array_equal(tiles.read(n), truth[at])
    region = (slice(3, 6), slice(2, 5), slice(4, 12))
    travelled = pickle.loads(pickle.dumps(tiles))  # noqa: S301
    np.testing.assert_array_equal(travelled.read(1, 0, region), truth[0, 1][region])
    stage = open_terastitcher(tmp_path, positions="stage")
    np.testing.assert_allclose(
        stage.positions() - stage.positions()[0], [(0, 0, 0), (0, 0, 45), (0, 32, 0)], atol=1e-9
    )


def test_displacements_and_reliabilities_are_read(tmp_path):
    (tmp_path / "p.xml").write_text(project_xml(PLANES, tmp_path))
    project = read_project(tmp_path / "p.xml")
    assert project.displacements == (
        Displacement((0, 0), (0, 1), (1, -2, 51), (0, 0, 50), (0.5, 0.9, 0.8), (0.6, 0.95, 0.85)),
    )


def test_displacements_become_overrides(tmp_path, capsys):
    """Along each axis the most reliable part counts; below the threshold nothing is forced."""
    second = PAIR.format(3, -4, 50, 0, 0, 50).replace('"0.9"', '"0.2"').replace('"0.5"', '"0.75"')
    text = project_xml(PLANES, tmp_path)
    text = text.replace("</EAST_displacements>", f"{second}</EAST_displacements>", 1)
    (tmp_path / "p.xml").write_text(text)
    assert main(["overrides", str(tmp_path / "p.xml"), "--image", "brain"]) == 0
    z, y, x = (v * edge for v, edge in zip((3, -2, 51), VOXEL, strict=True))
    heading = "image\taction\ttile_a\ttile_b\tz\ty\tx"
    assert capsys.readouterr().out == f"{heading}\nbrain\tforce\tr0_c0\tr0_c1\t{z:g}\t{y:g}\t{x:g}\n"
    assert main(["overrides", str(tmp_path / "p.xml"), "--image", "brain", "--threshold", "0.8"]) == 0
    assert capsys.readouterr().out == f"{heading}\n"


def test_projects_that_moved_and_old_ones_are_read(tmp_path):
    truth = write_stacks(tmp_path / "data", PLANES)
    (tmp_path / "data" / "p.xml").write_text(project_xml(PLANES, "/another/computer/stacks"))
    np.testing.assert_array_equal(open_terastitcher(tmp_path / "data").read(2), truth[1, 0])
    # Before 2014 there were neither ranges nor expressions, nor the name of the layout: all cells are there.
    text = project_xml(PLANES, tmp_path / "data", old=True).replace('DIR_NAME=""', 'DIR_NAME="1/1_0"')
    (tmp_path / "p.xml").write_text(text)
    tiles = open_terastitcher(tmp_path / "p.xml", stacks="data")
    assert len(tiles.tiles) == 4
    np.testing.assert_array_equal(tiles.read(1), truth[0, 1])


@pytest.mark.parametrize("layout", [PLANES, BLOCKS])
def test_planes_that_are_not_there_are_zero(tmp_path, layout):
    truth = write_stacks(tmp_path, layout)
    text = project_xml(layout, tmp_path, ranges="[1,3);[4,8)").replace('stack_slices="6"', 'stack_slices="9"')
    (tmp_path / "p.xml").write_text(text)
    tiles = open_terastitcher(tmp_path)
    wanted = np.zeros((9, 9, 12), "u2")
    wanted[[1, 2, 4, 5, 6, 7]] = truth[0, 1]
    np.testing.assert_array_equal(tiles.read(1), wanted)
    np.testing.assert_array_equal(tiles.read(1, 0, (slice(2, 6), slice(0, 9), slice(0, 12))), wanted[2:6])


def test_channels_come_from_folders_or_patterns(tmp_path):
    truth = {}
    for c in range(2):
        truth[c] = write_stacks(tmp_path / f"ch{c}", PLANES)
        truth[c][0, 1][:] += c
        for z, plane in enumerate(truth[c][0, 1]):
            tifffile.imwrite(tmp_path / f"ch{c}" / "0" / "0_1" / f"{z:06}.tif", plane)
    (tmp_path / "p.xml").write_text(project_xml(PLANES, "/gone"))
    tiles = open_terastitcher(tmp_path, stacks="ch0,ch1", channels=["auto", "signal"])
    assert tiles.channels == ("auto", "signal")
    for c in range(2):
        np.testing.assert_array_equal(tiles.read(1, c), truth[c][0, 1])
    tiles = open_terastitcher(tmp_path, stacks="ch0", files="00000[0-5].tif,*[0-9].tif")
    np.testing.assert_array_equal(tiles.read(0, 1), tiles.read(0, 0))


@pytest.mark.parametrize("layout", [PLANES, BLOCKS])
def test_a_sample_of_colours_is_read_when_it_is_named(tmp_path, layout):
    truth = write_stacks(tmp_path, layout)
    for file in tmp_path.rglob("*.tif"):
        grey = tifffile.imread(file)
        tifffile.imwrite(file, np.stack([grey, grey // 2, grey // 3], -1), photometric="rgb")
    (tmp_path / "p.xml").write_text(project_xml(layout, tmp_path))
    np.testing.assert_array_equal(open_terastitcher(tmp_path, sample="green").read(1), truth[0, 1] // 2)
    with pytest.raises(ValueError, match="`sample` to say which colour is read"):
        open_terastitcher(tmp_path)


BOMB = '<!DOCTYPE TeraStitcher [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
THIEF = '<!DOCTYPE TeraStitcher [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((HEAD.splitlines()[1], BOMB), "defines entities or refers to others'"),
        ((HEAD.splitlines()[1], THIEF), "defines entities or refers to others'"),
        (("</STACKS>", ""), "cannot be read as XML"),
        (("TeraStitcher>", "Other>"), "cannot be read as XML"),
        (("TiledXY|2Dseries", "MultiCycle"), "volume_format is 'MultiCycle'; wanted"),
        (('ref3="3"', 'ref3="1"'), r"ref_sys is \[1, 2, 1\]"),
        (('V="0.8"', 'V="thick"'), "V of <voxel_dims> is 'thick'; wanted a number"),
        (('V="0.8"', 'V="0"'), "wanted sizes other than 0"),
        (('<origin V="0.5" H="0" D="-0.001"/>', ""), "<TeraStitcher> has no <origin>"),
        (
            ('stack_columns="2"', 'stack_columns="3"'),
            "found 4 stacks; wanted one for each of 2 rows and 3 columns",
        ),
        (('ABS_V="42"', ""), "<Stack> has no ABS_V"),
        (("[0,6)", "[6,0)"), "wanted ascending ranges"),
        (("[0,6)", "[0,7)"), "end at plane 7; it has 6 planes"),
        (("[0,6)", "[0,5)"), "holds 6 planes; wanted 5"),
        (("0/0_1", "../../0_1"), "the path '../../0_1' leaves"),
        (("0/0_1", "/etc"), "the path '/etc' leaves"),
        (("0/0_1", "0/0_7"), "0_7: no such source"),
        ((".*\\.tif", "[a"), "is no regular expression"),
        ((".*\\.tif", "none"), "no TIFF file matches 'none'"),
    ],
)
def test_projects_are_checked(tmp_path, change, message):
    write_stacks(tmp_path, PLANES)
    text = project_xml(PLANES, tmp_path)
    assert change[0] in text
    (tmp_path / "p.xml").write_text(text.replace(*change))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_terastitcher(tmp_path / "p.xml")


def test_broken_files_are_found_when_they_are_read(tmp_path):
    write_stacks(tmp_path, PLANES)
    (tmp_path / "p.xml").write_text(project_xml(PLANES, tmp_path))
    tiles = open_terastitcher(tmp_path)
    tifffile.imwrite(tmp_path / "0" / "0_0" / "000003.tif", np.zeros((9, 12), "u1"))
    with pytest.raises(ValueError, match=r"000003.tif: the plane is uint8; wanted uint16"):
        tiles.read(0)
    file = tmp_path / "0" / "0_0" / "000004.tif"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"000004.tif: cannot be read as a TIFF file \(truncated"):
        tiles.read(0, 0, (slice(4, 5), slice(0, 9), slice(0, 12)))
    write_stacks(tmp_path / "3d", BLOCKS)
    (tmp_path / "3d" / "p.xml").write_text(project_xml(BLOCKS, tmp_path).replace("4,2", "3,3"))
    with pytest.raises(ValueError, match=r"0000.tif: it has shape \(1, 4, 9, 12\)"):
        open_terastitcher(tmp_path / "3d").read(0)


@pytest.mark.parametrize("layout", [PLANES, BLOCKS])
def test_a_project_is_written_as_it_was_read(tmp_path, layout):
    (tmp_path / "p.xml").write_text(project_xml(layout, tmp_path))
    project = read_project(tmp_path / "p.xml")
    write_project(tmp_path / "q.xml", project)
    again = read_project(tmp_path / "q.xml")
    assert again == project
    text = (tmp_path / "q.xml").read_text()
    # TeraStitcher recomputes reliabilities from peaks and widths, and mirrors east and south itself.
    assert text.count("<Displacement ") == 2
    width = int(text.split('nccPeak="0.95" nccWidth="')[1].split('"')[0])
    assert np.sqrt(0.5 * 0.95**2 + 0.5 * (1 - width / 30) ** 2) == pytest.approx(0.9, abs=0.02)
    for first in ('displ="-2" default_displ="0"', 'displ="2" default_displ="0"'):
        assert first in text


# ---------------------------------------------------------------------------------------- handed back
def export(folder: Path, source: Path, form: str, positions, links, spacing=None):
    """Run the steps of the workflow that the export needs; positions (um) and links by the tiles' places."""
    settings = {"image": "brain", "format": form, "spacing": spacing, "channels": None, "orientation": None}
    settings["options"] = {}
    folder.mkdir()
    index_tiles(
        path=str(source),
        settings=settings,
        raw_digest="stat",
        state="s",
        code="c",
        receipt=str(folder / "tiles.json"),
    )
    names = [tile["name"] for tile in receipts.read(folder / "tiles.json")["tiles"]]
    rows = ["tile\tz\ty\tx"] + ["\t".join([n, *map(str, p)]) for n, p in zip(names, positions, strict=True)]
    (folder / "poses.tsv").write_text("\n".join(rows) + "\n")
    rows = ["tile_a\ttile_b\tz\ty\tx\tncc\tstatus"]
    rows += [
        "\t".join([names[i], names[j], *map(str, d), str(ncc), status]) for i, j, d, ncc, status in links
    ]
    (folder / "links.tsv").write_text("\n".join(rows) + "\n")
    rows = ["tile_a\ttile_b\tstatus\tweight"]
    rows += [f"{names[i]}\t{names[j]}\t{s}\t{int(s in ('ok', 'forced'))}" for i, j, _, _, s in links]
    (folder / "solved_links.tsv").write_text("\n".join(rows) + "\n")
    export_terastitcher(
        tiles=str(folder / "tiles.json"),
        links=str(folder / "links.tsv"),
        solved_links=str(folder / "solved_links.tsv"),
        poses=str(folder / "poses.tsv"),
        path=str(source),
        source=settings,
        code="c",
        receipt=str(folder / "terastitcher.json"),
    )
    return folder / "terastitcher", receipts.read(folder / "terastitcher.json")


@pytest.mark.parametrize("layout", [PLANES, BLOCKS])
def test_poses_are_handed_back(tmp_path, layout):
    truth = write_stacks(tmp_path / "raw", layout)
    (tmp_path / "raw" / "p.xml").write_text(project_xml(layout, tmp_path / "raw"))
    solved = np.array([(0, 0, 0), (2, -1, 49), (-1, 41, 2)])  # voxels
    part = np.array([(0, 0, 0), (0.2, -0.3, 0.4), (0, 0, 0)])
    positions = (solved + part) * VOXEL + 7
    links = [
        (0, 1, np.array([2, -1, 49]) * VOXEL, 0.875, "ok"),
        (0, 2, np.array([9, 9, 9]) * VOXEL, 0.1, "low_ncc"),
        (
            1,
            2,
            np.array([0, 9, -40]) * VOXEL,
            0.9,
            "ok",
        ),  # of diagonal neighbours: TeraStitcher has no place for it
    ]
    folder, receipt = export(tmp_path / "out", tmp_path / "raw" / "p.xml", "terastitcher", positions, links)
    assert receipt["files"] == {"xml_merging_channel0.xml": "0"}
    assert receipt["rounded_voxel"] == pytest.approx(0.4)
    project = read_project(folder / "xml_merging_channel0.xml")
    assert (project.layout, project.step) == (layout, pytest.approx((42 * 0.8, 51 * 0.9)))
    placed = np.array([s.position for s in project.stacks if s.folder])
    np.testing.assert_array_equal(placed, solved - solved.min(0))
    good, failed = project.displacements
    assert (good.a, good.b, good.voxels) == ((0, 0), (0, 1), (2, -1, 49))
    assert good.reliability == pytest.approx((0.875,) * 3)
    assert (failed.b, failed.voxels, failed.reliability) == ((1, 0), (0, 42, 0), (0, 0, 0))
    # The project that was written is read again, beside the stacks: voxels and places are the same.
    handed = tmp_path / "raw" / "handed.xml"
    handed.write_bytes((folder / "xml_merging_channel0.xml").read_bytes())
    tiles = open_terastitcher(handed)
    for n, at in enumerate(PLACES):
        np.testing.assert_array_equal(tiles.read(n), truth[at])
    assert np.abs((tiles.positions() - positions) / VOXEL).max() == pytest.approx(receipt["rounded_voxel"])


def test_a_forced_link_is_as_the_tiles_lie(tmp_path):
    write_stacks(tmp_path / "raw", PLANES)
    (tmp_path / "raw" / "p.xml").write_text(project_xml(PLANES, tmp_path / "raw"))
    positions = np.array([(0, 0, 0), (1, -1, 48), (0, 40, 0)]) * VOXEL
    links = [(0, 1, np.zeros(3), 0.1, "forced"), (0, 2, np.array([0, 39, 1]) * VOXEL, 0.9, "ignored")]
    folder, _ = export(tmp_path / "out", tmp_path / "raw" / "p.xml", "terastitcher", positions, links)
    forced, unused = read_project(folder / "xml_merging_channel0.xml").displacements
    assert (forced.voxels, forced.reliability) == ((1, -1, 48), (1, 1, 1))
    assert unused.reliability == (0, 0, 0)


def test_a_colm_acquisition_becomes_a_project_for_each_channel(tmp_path):
    raw = tmp_path / "raw"
    volumes = np.random.default_rng(0).integers(0, 60000, (2, 2, 3, 8, 8)).astype("u2")  # tile, channel
    for n, number in enumerate((0, 3)):
        folder = raw / "VW0" / f"LOC{number:03}"
        folder.mkdir(parents=True)
        for c in range(2):
            for z in range(3):
                tifffile.imwrite(folder / f"x_CHN0{c}_PLN{z:04}.tif", volumes[n, c, z])
    (raw / "Scanned Cells.txt").write_text("1,0\n0,1\n")
    (raw / "Experiment.ini").write_text(
        "[North Scan Region]\nNum Horizontal = 2\nNum Vertical = 2\nStack Step (mm) = 0.0025\n"
        "[Experiment Settings]\nNum in stack (Top Left Corner) = 3\nX Resolution = 8\nNum Enabled Channels = 2\n"
        "[North Scan Region Stats]\nActual Horizontal Overlap (%) = 10\nActual Vertical Overlap (%) = 10\n"
        '[Objectives]\nNorth = "10x"\n'
    )
    folder, receipt = export(tmp_path / "out", raw, "colm", [(0, 0, 0), (2.5, 900, 1100)], [])
    assert list(receipt["files"].values()) == ["0", "1"]
    for c in range(2):
        project = read_project(folder / f"xml_merging_channel{c}.xml")
        assert project.stacks_dir == str(raw / "VW0")
        assert [s.folder for s in project.stacks] == ["LOC000", "", "", "LOC003"]
        (raw / "VW0" / "p.xml").write_bytes((folder / f"xml_merging_channel{c}.xml").read_bytes())
        tiles = open_terastitcher(raw / "VW0" / "p.xml")
        for n in range(2):
            np.testing.assert_array_equal(tiles.read(n), volumes[n, c])


def test_what_terastitcher_cannot_read_is_refused(tmp_path):
    for n in range(2):
        tifffile.imwrite(tmp_path / f"{n}.tif", np.zeros((2, 8, 8), "u2"), photometric="minisblack")
    table = "tile,path,z,y,x\na,0.tif,0,0,0\nb,1.tif,0,0,7\n"
    (tmp_path / "tiles.csv").write_text(table)
    with pytest.raises(ValueError, match="tile 'a' has no row and column"):
        export(tmp_path / "out", tmp_path, "tiff_tiles", np.zeros((2, 3)), [], spacing=(1, 1, 1))
