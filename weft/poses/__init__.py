"""Poses: one position per tile from many links, robust against wrong ones."""

from weft.poses.model import METHODS, MODELS, Poses, PoseSettings
from weft.poses.overrides import apply_overrides
from weft.poses.solve import solve_poses

__all__ = ["METHODS", "MODELS", "PoseSettings", "Poses", "apply_overrides", "solve_poses"]
