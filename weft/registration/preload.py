"""What the fork server of worker processes imports before any is forked from it."""

import gc

import weft.registration.backends.native
import weft.registration.workers  # noqa: F401
from weft.registration.memory import hold_little

hold_little()
# The collector writes into the objects that it visits: pages that workers share would become their own.
gc.collect()
gc.freeze()
