"""The ITK format: what SimpleITK makes of our files, and what we make of ITK's."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

import weft.transforms.formats.itk as itk_format
from weft.grid import Grid
from weft.transforms.formats.itk import check_itk, read_itk, write_itk
from weft.transforms.model import Affine, Displacements, Sequence

GRID = Grid((12, 14, 16), (20.0, 30.0, 25.0), (50.0, -60.0, 70.0))
AFFINE = np.array([[0.2, 1.1, 0.1, 300], [-0.9, 0.1, 0, -400], [0, -0.2, 1.2, 55], [0, 0, 0, 1.0]])


def transform() -> Sequence:
    field = np.random.default_rng(0).normal(0, 10, (3, *GRID.shape)).astype(np.float32)
    return Sequence((Displacements(field, GRID), Affine(AFFINE)))


def probes(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(1)
    return GRID.to_physical(rng.uniform(0, np.array(GRID.shape) - 1, (n, 3)))


@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_simpleitk_maps_points_as_we_do(tmp_path, suffix, unit):
    path = tmp_path / f"itk{suffix}"
    write_itk(path, transform(), unit=unit)
    assert check_itk(path, transform(), probes(), unit=unit) < 1e-3
    # By hand, with nothing of ours but the truth.
    itk = sitk.ReadTransform(str(path))
    z, y, x = probes(1)[0]
    moved = np.array(itk.TransformPoint((x / unit, y / unit, z / unit)))[::-1] * unit
    np.testing.assert_allclose(moved, transform().apply([[z, y, x]])[0], atol=1e-3)


def test_a_field_is_written_slab_by_slab_and_always_to_the_same_bytes(tmp_path, monkeypatch):
    whole, slabs = tmp_path / "whole.h5", tmp_path / "slabs.h5"
    write_itk(whole, transform())
    monkeypatch.setattr(itk_format, "SLAB", 5 * GRID.shape[1] * GRID.shape[2] + 3)  # 12 planes by 5
    write_itk(slabs, transform())
    assert whole.read_bytes() == slabs.read_bytes()
    assert check_itk(slabs, transform(), probes()) < 1e-3
    assert slabs.stat().st_size < 12 * GRID.size + 20_000


def test_the_check_notices_a_wrong_file(tmp_path):
    path = tmp_path / "itk.h5"
    steps = transform().steps
    write_itk(path, Sequence(steps[::-1]))
    assert check_itk(path, transform(), probes()) > 1
    write_itk(path, Sequence((steps[0], Affine(AFFINE[[2, 1, 0, 3]][:, [2, 1, 0, 3]]))))
    assert check_itk(path, transform(), probes()) > 1
    with pytest.raises(ValueError, match="none of the probe points"):
        check_itk(path, transform(), np.full((3, 3), 1e6))


def test_a_file_comes_back_as_it_was(tmp_path):
    path = tmp_path / "itk.h5"
    write_itk(path, transform(), unit=1000.0)
    field, affine = read_itk(path, unit=1000.0).steps
    np.testing.assert_allclose(affine.matrix, AFFINE, atol=1e-9)
    np.testing.assert_allclose(field.field, transform().steps[0].field, rtol=1e-6)
    np.testing.assert_allclose(field.grid.origin, GRID.origin)
    np.testing.assert_allclose(field.grid.spacing, GRID.spacing)


def test_an_inverse_and_an_affine_alone_are_written_too(tmp_path):
    back = Sequence((Affine(np.linalg.inv(AFFINE)), transform().steps[0]))
    write_itk(tmp_path / "inverse.h5", back)
    assert check_itk(tmp_path / "inverse.h5", back, Affine(AFFINE).apply(probes())) < 1e-3
    write_itk(tmp_path / "affine.tfm", Sequence((Affine(AFFINE),)))
    assert check_itk(tmp_path / "affine.tfm", Sequence((Affine(AFFINE),)), probes()) < 1e-9


def test_linear_transforms_of_every_kind_are_read(tmp_path):
    euler = sitk.Euler3DTransform((10.0, 20.0, 30.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    shift = sitk.TranslationTransform(3, (5.0, 6.0, 7.0))
    composite = sitk.CompositeTransform([shift, euler, sitk.Similarity3DTransform()])
    sitk.WriteTransform(composite, str(tmp_path / "rigid.tfm"))
    found = read_itk(tmp_path / "rigid.tfm").apply(probes(20))
    truth = [composite.TransformPoint(tuple(p[::-1]))[::-1] for p in probes(20)]
    np.testing.assert_allclose(found, truth, atol=1e-9)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="suffix"):
        write_itk(tmp_path / "itk.mat", transform())
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_itk(tmp_path / "gone.h5")
    (tmp_path / "bad.tfm").write_text("nothing")
    with pytest.raises(ValueError, match="cannot read"):
        read_itk(tmp_path / "bad.tfm")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    with pytest.raises(ValueError, match="2 dimensions"):
        read_itk(tmp_path / "flat.tfm")
    sitk.WriteTransform(sitk.BSplineTransform(3, 3), str(tmp_path / "spline.tfm"))
    with pytest.raises(ValueError, match="BSplineTransform"):
        read_itk(tmp_path / "spline.tfm")
    turned = sitk.Image((4, 4, 4), sitk.sitkVectorFloat64)
    turned.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteTransform(sitk.DisplacementFieldTransform(turned), str(tmp_path / "turned.h5"))
    with pytest.raises(ValueError, match="direction"):
        read_itk(tmp_path / "turned.h5")
