"""What the fork server of worker processes of the native engine does before any is forked from it: it loads the kernels."""

import contextlib
import gc

import weft.registration.preload  # noqa: F401
from weft.registration.memory import give_back
from weft.registration.warm import warm

# What goes wrong here goes wrong in the workers too, which can tell.
with contextlib.suppress(Exception):
    warm()
give_back()
gc.collect()
gc.freeze()
