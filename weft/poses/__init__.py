"""Poses: one position per tile from many links, robust against wrong ones."""

from weft.poses.model import METHODS, Poses, PoseSettings
from weft.poses.solve import solve_poses

__all__ = ["METHODS", "PoseSettings", "Poses", "solve_poses"]
