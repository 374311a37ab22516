"""What a job says of itself."""

import errno
import subprocess
import sys

import numba
import numpy as np
import pytest

from weft import logs
from weft.logs import capture_log
from weft.receipts import write_array

SAY = "from weft.logs import peak_memory; print(peak_memory())"


def test_peak_memory_is_of_the_process_alone():
    def small() -> int:
        return int(subprocess.run([sys.executable, "-c", SAY], check=True, capture_output=True).stdout)

    before = small()
    held = np.ones(25_000_000)  # 200 MB, which a process begins with in the kernel's account of its resources
    assert abs(small() - before) < 50e6
    holding = f"held = bytearray(b'1') * {held.nbytes}; {SAY}"
    found = subprocess.run([sys.executable, "-c", holding], check=True, capture_output=True).stdout
    assert before + 190e6 < int(found) < before + 250e6


def test_a_full_disk_is_told_with_its_file_and_what_to_do(tmp_path):
    with pytest.raises(SystemExit) as ended, capture_log(str(tmp_path / "job.log")):
        raise OSError(errno.ENOSPC, "No space left on device", "results/a.npy")
    assert (
        "No space left on device: 'results/a.npy'; make room and rerun: what was done is kept (log: "
        in str(ended.value)
    )


def test_an_array_is_written_whole_or_not_at_all(tmp_path):
    values = np.arange(50_000, dtype=np.float32).reshape(2, -1)
    write_array(tmp_path / "whole.npy", values)
    np.testing.assert_array_equal(np.load(tmp_path / "whole.npy"), values)


@pytest.mark.parametrize(
    "write",
    [
        "from weft.receipts import write_array; write_array(path, values)",
        "from weft.grid import Grid\n"
        "from weft.transforms.formats.ngff import save_field\n"
        "save_field(path, values.reshape(3, 40, 40, 40), Grid((40,) * 3, (1.0,) * 3))",
        "from weft.grid import Grid\n"
        "from weft.stores.ome_zarr import create_level, write_region\n"
        "grid, whole = Grid((40,) * 3, (1.0,) * 3), (slice(0, 40),) * 3\n"
        "array = create_level(path, grid, 1, 'float32', chunk=(40,) * 3, shard=(40,) * 3)\n"
        "write_region(array, 0, whole, values[:64000].reshape(40, 40, 40), '')",
    ],
    ids=["array", "field", "image"],
)
def test_what_could_not_be_written_is_named_and_no_half_of_it_is_left(tmp_path, write):
    """In a process that may write no file beyond 100 kB, as on a disk with no more room."""
    program = (
        "import resource, sys, numpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "path, values = sys.argv[1], numpy.random.default_rng(0).random(192_000, numpy.float32)\n" + write
    )
    path = tmp_path / "made"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"File too large: '{path}" in done.stderr.splitlines()[-1]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > 10_000]


@pytest.mark.parametrize(("long", "times"), [(0.0, 1), (60.0, 0)])
def test_it_is_said_once_that_kernels_are_compiled_if_that_takes_long(
    tmp_path, monkeypatch, capsys, long, times
):
    monkeypatch.setattr(logs, "LONG", long)
    inner = numba.njit(lambda x: x + 1)
    outer, other = numba.njit(lambda x: inner(x) * 2), numba.njit(lambda x: x - 1)
    with capture_log(str(tmp_path / "job.log")):
        assert outer(1) + other(1) == 4
        assert outer(2) == 6  # it is there already
    said = "compiling kernels, once"
    assert (tmp_path / "job.log").read_text().count(said) == capsys.readouterr().err.count(said) == times
