"""What all models of settings share: their base and the types of common fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Voxels = tuple[Count, Count, Count]
# A channel may be called 0: YAML reads that as a number.
Channel = Annotated[str, Field(coerce_numbers_to_str=True)]
# What a JSON schema can say of an orientation code.
CODE: dict[str, Any] = {"pattern": "^[rlapsiRLAPSI]{3}$"}
Policy = Literal["fail", "warn", "ignore"]


class Model(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
