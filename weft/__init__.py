"""weft: from a microscope's raw tiles to a registered, measured and checked volume."""

import hashlib
import os
from pathlib import Path

__version__ = "0.1.0"


def _keep_kernels_apart() -> None:
    """Give the compiled kernels of every version of the code a folder of its own.

    Numba's cache looks at the file of a kernel alone: an edit of a kernel that another file's kernel calls
    would leave the old machine code in use.
    """
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        source = path.read_bytes()
        if b"numba" in source:
            sha.update(source)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weft"
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    given = os.environ.get("NUMBA_CACHE_DIR", "")
    if os.access(base, os.W_OK) and (not given or given.startswith(str(base))):
        os.environ["NUMBA_CACHE_DIR"] = str(base / f"kernels-{sha.hexdigest()[:12]}")


_keep_kernels_apart()
