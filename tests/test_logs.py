"""What a job says of itself."""

import subprocess
import sys

import numpy as np

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
