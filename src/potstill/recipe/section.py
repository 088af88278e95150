"""What every table of a recipe has in common.

In:  nothing.
Out: the base of all sections, and the kinds of values that several of them use.
Does not know: any single table.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Quantisation = Literal["F16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "IQ4_NL", "Q4_0"]


class Section(BaseModel):
    """One table of the recipe: frozen, and without room for a key nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
