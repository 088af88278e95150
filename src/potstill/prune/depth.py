"""How many layers a student of so many parameters should have.

In:  the configuration of the model it is cut from, a shape whose layers and neurons are open, parameters.
Out: a number of layers.
Does not know: which layers stay, calibration, recipes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from potstill.prune.shape import StudentSpec, count_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

KEEPS_ALL = 0.5
"""Share of the base's body (all but the embeddings) down to which every layer stays."""
MOST_ATTENTION = 0.5
"""Largest share of a layer's parameters that attention may take."""


def sensible_layers(config: PreTrainedConfig, spec: StudentSpec, parameters: int) -> int:
    """Layers of a student cut from `config`, from 1 to as many as there are.

    Down to half of the base's body only the feed-forward becomes narrower: students heal better deep and narrow than
    shallow and wide. Below that, layers become fewer and smaller alike, each by the square root of what is taken
    away, and never so many that attention, which does not shrink, takes more than half of a layer.

    Args:
        spec: hidden width, heads and vocabulary count; its layers and neurons do not.
    """

    def count(layers: int, ffn: int) -> int:
        return count_parameters(config, replace(spec, layers=layers, ffn=ffn))

    outside, total = count(0, 0), int(config.num_hidden_layers)
    attention, whole = count(1, 0) - outside, count(1, config.intermediate_size) - outside
    body = max(parameters - outside, 0)
    narrowed = round(total * math.sqrt(body / (KEEPS_ALL * total * whole)))
    affordable = int(MOST_ATTENTION * body / attention)
    needed = math.ceil(body / whole)
    return min(total, max(1, needed, min(narrowed, affordable)))
