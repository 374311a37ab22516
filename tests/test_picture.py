"""Pictures: the pixels of a file as channels, or as optical density, in one plane."""

import numpy as np
import pytest
import SimpleITK

from weft.readers import detect_format, open_source

SPACING = (5.0, 0.5, 0.5)
RNG = np.random.default_rng(0)


def write(path, pixels):
    """Pixels (y, x) or (y, x, c)."""
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=pixels.ndim == 3), str(path))
    return path


def voxels(image):
    return np.asarray(image.levels[0].data)


@pytest.mark.parametrize(
    ("name", "shape", "channels"),
    [
        ("a.png", (7, 9, 3), ("red", "green", "blue")),
        ("a.tif", (7, 9, 3), ("red", "green", "blue")),
        ("a.bmp", (7, 9, 3), ("red", "green", "blue")),
        ("a.png", (7, 9), ("0",)),
        ("a.png", (7, 9, 4), ("red", "green", "blue")),
    ],
)
def test_a_picture_is_one_plane_of_channels(tmp_path, name, shape, channels):
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    image = open_source(write(tmp_path / name, pixels), "picture", spacing=SPACING)
    assert image.channels == channels
    assert image.grid.shape == (1, 7, 9)
    assert image.grid.spacing == SPACING
    colours = np.atleast_3d(pixels)[..., : len(channels)]
    np.testing.assert_array_equal(voxels(image), np.moveaxis(colours, -1, 0)[:, None])
    assert voxels(image).dtype == np.uint8


def test_colours_become_optical_density(tmp_path):
    pixels = np.full((3, 4, 3), 255, np.uint8)
    pixels[1, 2] = (0, 127, 255)
    image = open_source(write(tmp_path / "a.png", pixels), spacing=SPACING, colour="density")
    found = voxels(image)[0, 0]
    assert found.dtype == np.float32
    assert found[1, 2] == pytest.approx(np.log10(256) + np.log10(2), rel=1e-5)
    found[1, 2] = 0
    assert np.abs(found).max() < 1e-6


@pytest.mark.parametrize("name", ["a.png", "A.JPG", "a.jpeg", "a.bmp"])
def test_pictures_are_known_by_their_names(tmp_path, name):
    write(tmp_path / name, np.zeros((5, 6), np.uint8))
    assert detect_format(tmp_path / name) == "picture"


def test_bad_pictures_are_refused_in_one_sentence(tmp_path):
    colour = write(tmp_path / "a.png", np.zeros((5, 6, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no picture")
    for path, options, word in [
        (tmp_path / "b.png", {"spacing": SPACING}, "cannot be read as a picture"),
        (colour, {}, "no voxel size"),
        (colour, {"spacing": SPACING, "labels": True}, "labels are in colour"),
        (colour, {"spacing": SPACING, "colour": "hsv"}, "colour is 'hsv'; wanted rgb or density"),
        (colour, {"spacing": SPACING, "channels": ["a"]}, "1 channel names"),
    ]:
        with pytest.raises(ValueError, match=word) as caught:
            open_source(path, **options)
        assert "\n" not in str(caught.value)
