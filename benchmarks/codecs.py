"""Codecs on chunks of real images: what one CPU second packs and unpacks, and how much room it saves."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
from numcodecs import Blosc, Zstd

import report
from weft.blocks import cut, region
from weft.readers import open_source

CHUNK = (64, 64, 64)
ATLEAST = 0.1  # CPU seconds of work per measurement
IMAGES = {
    "cleared-brain": "cellfinder_block/tests/data/signal",
    "expanded-tissue": "easifish_lowres/resources/fix.n5",
    "whole-brain": "brainreg_mouse/tests/data/input/brain",
    "annotation": "allen_ccf_cloudreg/cloudreg/registration/atlases/annotation_50.nrrd",
}
CODECS: dict[str, Any] = {
    "none": None,
    "blosc-lz4-1-bit": Blosc("lz4", 1, Blosc.BITSHUFFLE),
    "blosc-lz4-1-byte": Blosc("lz4", 1, Blosc.SHUFFLE),
    "blosc-lz4-5-bit": Blosc("lz4", 5, Blosc.BITSHUFFLE),
    "blosc-lz4-5-byte": Blosc("lz4", 5, Blosc.SHUFFLE),
    "blosc-zstd-1-bit": Blosc("zstd", 1, Blosc.BITSHUFFLE),
    "blosc-zstd-1-byte": Blosc("zstd", 1, Blosc.SHUFFLE),
    "blosc-zstd-3-bit": Blosc("zstd", 3, Blosc.BITSHUFFLE),
    "blosc-zstd-3-byte": Blosc("zstd", 3, Blosc.SHUFFLE),
    "zstd-1": Zstd(1),
    "zstd-3": Zstd(3),
}


def main() -> None:
    """Measure, write and print."""
    given = report.options(
        __doc__.splitlines()[0],
        sizes=[200],
        quick=[40],
        size=count_of,
        explain="chunks of an image, evenly spread over those with voxels other than zero",
        seeds=(0,),
        more=lambda parser: parser.add_argument(
            "--data", type=Path, required=True, help="folder of the public data sets"
        ),
    )
    numcodecs.blosc.use_threads = False
    rows: list[report.Row] = []
    for count in given.sizes:
        for name, place in IMAGES.items():
            if (given.data / place).exists():
                rows += codec_rows(f"codecs.{name}", given.data / place, count)
            else:
                print(f"{given.data / place}: not there, left out")
    report.show(rows)
    report.write(rows, given.json)


def count_of(text: str) -> int:
    """The number of chunks, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of chunks; found {text!r}")
    return int(text)


def codec_rows(name: str, path: Path, count: int) -> list[report.Row]:
    """All codecs on the chunks of one image."""
    chunks = list(chunks_of(path, count))
    amount, size = sum(chunk.size for chunk in chunks) / 1e6, sum(chunk.nbytes for chunk in chunks)
    rows = [report.row(f"{name}.{chunks[0].dtype}.voxels", [amount], "Mvox")]
    for label, codec in CODECS.items():
        encode = codec.encode if codec else np.ndarray.tobytes
        decode = codec.decode if codec else bytearray
        packed = [encode(chunk) for chunk in chunks]
        assert all(bytes(decode(one)) == chunk.tobytes() for one, chunk in zip(packed, chunks, strict=True))
        ratio = size / sum(map(len, packed))
        rows += [
            report.row(f"{name}.{label}.ratio", [ratio], "x"),
            report.row(f"{name}.{label}.encode", [amount / seconds(encode, chunks)], "Mvox/CPU-s"),
            report.row(f"{name}.{label}.decode", [amount / seconds(decode, packed)], "Mvox/CPU-s"),
        ]
    return rows


def chunks_of(path: Path, count: int) -> Iterator[np.ndarray]:
    """Up to ``count`` chunks of an image's finest level that are not all zero, evenly spread."""
    spacing = (
        {} if path.suffix == ".n5" else {"spacing": (1.0, 1.0, 1.0)}
    )  # not all state it; it does not matter here
    volume = open_source(path, **spacing).levels[0].read(0)
    parts = [volume[region(one, volume.shape, CHUNK)] for one in cut(volume.shape, CHUNK)]
    parts = [part for part in parts if part.any()]
    for part in parts[:: -(-len(parts) // count)]:
        yield np.ascontiguousarray(part, part.dtype.newbyteorder("="))


def seconds(work: Callable[[Any], Any], items: list[Any]) -> float:
    """CPU seconds of ``work`` on all items; best of three measurements that last long enough."""
    repeats, found = 1, []
    while len(found) < 3:
        start = time.process_time()
        for _ in range(repeats):
            for item in items:
                work(item)
        spent = time.process_time() - start
        if spent < ATLEAST:
            repeats *= 2
        else:
            found.append(spent / repeats)
    return min(found)


if __name__ == "__main__":
    main()
