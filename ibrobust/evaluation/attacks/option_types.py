"""The values of an attack's options with which it can attack; without torch.

A step size of 0, a negative one or NaN changes no image, and the model would look robust.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from ibrobust.counts import MOST

Count = Annotated[int, Field(ge=1, le=MOST)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]

LossName = Literal["cross_entropy", "margin", "dlr"]
Norm = Literal["Linf", "L2"]
NORMS: tuple[str, ...] = get_args(Norm)
Precision = Literal["fp32", "bf16"]
