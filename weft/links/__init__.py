"""Links: pairwise measurements between tiles."""

from weft.links.candidates import candidate_links
from weft.links.measure import measure_link
from weft.links.model import STATUSES, Link, LinkSettings

__all__ = ["STATUSES", "Link", "LinkSettings", "candidate_links", "measure_link"]
