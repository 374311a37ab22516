"""The helper process that runs itk-elastix: a program of its own, started by `weft.registration.elastix_process`.

Loading elastix costs more than ten CPU-seconds and most of a gigabyte, and a crash in it ends its process. So
it is loaded once here, and every request is answered by a fork: one child, one thread, one registration.

Requests come as lines of JSON on standard input, ``{"id": n, "folder": path}`` or ``{"id": n, "kill": true}``;
answers leave as lines on standard output, ``{"ready": true}`` and then ``{"id": n, "status": s}`` with the wait
status of the child. Images, (z, y, x) or (y, x), travel as .npy files in the folder, which the child leaves
``result.json`` and, when asked for, ``displacement.npy`` in, or ``error.txt``. The process ends with its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until their stream ends."""
    children: dict[int, int] = {}  # request id -> pid
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    pending = b""
    while True:
        for key, _ in selector.select():
            if key.fileobj is requests:
                chunk = os.read(requests.fileno(), 65536)
                if not chunk:
                    for pid in children.values():
                        os.kill(pid, signal.SIGKILL)
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    _handle(json.loads(line), children, selector)
            else:
                # A child holds the other end of this pipe and never writes: end of file is its death.
                request, pid = key.data
                selector.unregister(key.fileobj)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                del children[request]
                _answer(answers, {"id": request, "status": status})


def _handle(message: dict[str, Any], children: dict[int, int], selector: selectors.BaseSelector) -> None:
    """Start or kill a child."""
    request = message["id"]
    if message.get("kill"):
        if request in children:
            os.kill(children[request], signal.SIGKILL)
        return
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        os._exit(_child(Path(message["folder"])))
    os.close(write_end)
    children[request] = pid
    selector.register(read_end, selectors.EVENT_READ, (request, pid))


def _answer(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


def _child(folder: Path) -> int:
    """Run one registration; 0 when it worked."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        result = _register(folder)
    except BaseException as error:
        (folder / "error.txt").write_text(_reason(folder, error))
        return 1
    (folder / "result.json").write_text(json.dumps(result))
    return 0


def _register(folder: Path) -> list[dict[str, list[str]]]:
    """The transform parameter maps that elastix finds for the images of a folder, in the order in which they act."""
    import itk  # already loaded in the helper process

    wanted = json.loads((folder / "request.json").read_text())

    def image(name: str) -> Any:
        found = itk.image_view_from_array(np.load(folder / f"{name}.npy", allow_pickle=False))
        found.SetSpacing(wanted["spacing"])
        return found

    fixed, moving = image("fixed"), image("moving")
    # Kept by name until the end: the images are views of these arrays, and elastix does not hold them.
    masks = {
        side: image(f"{side}_mask") for side in ("fixed", "moving") if (folder / f"{side}_mask.npy").exists()
    }
    parameters = itk.ParameterObject.New()
    for parameter_map in wanted["maps"]:
        parameters.AddParameterMap(parameter_map)
    method = itk.ElastixRegistrationMethod[type(fixed), type(moving)].New(fixed, moving)
    if "fixed" in masks:
        method.SetFixedMask(masks["fixed"])
    if "moving" in masks:
        method.SetMovingMask(masks["moving"])
    method.SetParameterObject(parameters)
    method.SetNumberOfThreads(1)
    method.SetLogToConsole(False)
    method.SetOutputDirectory(str(folder))
    method.SetLogToFile(True)
    method.UpdateLargestPossibleRegion()
    found = method.GetTransformParameterObject()
    if wanted["displacement"]:
        # Whatever kinds of transform were asked for, elastix itself knows how to follow one after the other.
        chain = itk.TransformixFilter[type(moving)].New(moving, found)
        chain.SetComputeDeformationField(True)
        chain.SetOutputDirectory(str(folder))
        chain.SetLogToConsole(False)
        chain.SetLogToFile(False)
        chain.UpdateLargestPossibleRegion()
        field = itk.array_view_from_image(chain.GetOutputDeformationField())
        np.save(folder / "displacement.npy", field, allow_pickle=False)
    maps = (found.GetParameterMap(n) for n in range(found.GetNumberOfParameterMaps()))
    return [{name: list(values) for name, values in dict(one).items()} for one in maps]


def _reason(folder: Path, error: BaseException) -> str:
    """One line that says why: elastix names the cause in its log only."""
    with contextlib.suppress(OSError):
        log = (folder / "elastix.log").read_text(errors="replace")
        causes = [
            line.split(":", 1)[1].strip() for line in log.splitlines() if line.startswith("Description:")
        ]
        causes += [
            line.removeprefix("ERROR:").strip() for line in log.splitlines() if line.startswith("ERROR:")
        ]
        if causes:
            return causes[0].removeprefix("ITK ERROR: ")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def main() -> None:
    """Load elastix, say so, serve."""
    import itk  # here, so that this module can be imported where itk is not installed

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not reach the answers
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    _ = (
        itk.ElastixRegistrationMethod,
        itk.ParameterObject,
        itk.image_view_from_array,
        itk.array_view_from_image,
    )
    # Touching the class of one image type loads what the children need before they are forked.
    probe = itk.image_view_from_array(np.zeros((2, 2, 2), np.float32))
    _ = itk.ElastixRegistrationMethod[type(probe), type(probe)], itk.TransformixFilter[type(probe)]
    _answer(answers, {"ready": True})
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
