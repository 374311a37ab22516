"""What a stage measures (`metrics`) and what it must reach (`gates`)."""

from weft.quality.gates import QualityError, evaluate, read_quality_table, write_quality_table

__all__ = ["QualityError", "evaluate", "read_quality_table", "write_quality_table"]
