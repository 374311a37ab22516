"""What becomes of a correction that its own check speaks against."""

from __future__ import annotations

from typing import Any

from weft.logs import log

POLICIES = ("check", "force")


def outcome(reason: str, policy: str) -> dict[str, Any]:
    """Whether a correction is used, and why not or in spite of what: the fields ``accepted`` and ``reason`` of its report.

    Parameters
    ----------
    reason
        What the check objects; empty when nothing.
    policy
        ``"check"`` refuses then, ``"force"`` uses it anyway.
    """
    if reason and policy == "check":
        return {"accepted": False, "reason": reason}
    return {"accepted": True, "reason": reason and f"forced although {reason}"}


def tell(image: str, channel: str, what: str, report: dict[str, Any]) -> None:
    """Warn where the report of a correction gives a reason."""
    if report["reason"]:
        used = "used" if report["accepted"] else "replaced by 1"
        log.warning("%s, channel %s: %s %s: %s", image, channel, what, used, report["reason"])
