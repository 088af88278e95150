"""How many attention heads of which width fit a hidden width, and what becomes of their rotary frequencies.

In:  the base's configuration, what the recipe asks for.
Out: a `HeadShape`; the numbers of a head that stay; the rotary settings that keep their frequencies.
Does not know: weights, which heads are the best ones.

A head stays whole: its width is the base's, so nothing changes for its rotary embedding. llama.cpp builds Qwen2 and
Phi-3 with heads × head width = hidden width, so their heads are counted by that. Only Phi-3 heads are narrowed, where
the hidden width does not divide by their width (1024 by 96): Phi-3's longrope can state any frequency, so the pairs
that stay keep theirs to the digit. They are taken at even distances over the spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from potstill.models.architecture import head_width
from potstill.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SQUARE = ("qwen2", "phi3")
"""Families whose attention is as wide as the stream in llama.cpp."""
STEP = 16
"""Narrowed heads are a multiple of this wide."""


@dataclass(frozen=True)
class HeadShape:
    """Attention heads, the key-value groups they share, and the width of one."""

    heads: int
    groups: int
    width: int


def shape_of(config: PreTrainedConfig) -> HeadShape:
    """The heads that a configuration describes."""
    return HeadShape(config.num_attention_heads, config.num_key_value_heads, head_width(config))


def choose_heads(config: PreTrainedConfig, hidden: int, heads: int | None, groups: int | None) -> HeadShape:
    """The heads of a student: as asked for, otherwise the base's share of them at this hidden width.

    Raises: Problem where the numbers do not fit together, with what would.
    """
    base, family = shape_of(config), str(config.model_type)
    fitting = [shape for shape in _candidates(base, family, hidden, config.hidden_size) if shape.heads <= base.heads]
    fitting = [shape for shape in fitting if groups in (None, shape.groups)]
    wanted = base.heads * hidden // config.hidden_size if heads is None else heads
    if heads is None and family not in SQUARE:  # the nearest below that shares its groups evenly
        fitting = [shape for shape in fitting if shape.heads <= wanted]
        wanted = max((shape.heads for shape in fitting), default=wanted)
    elif heads is None and fitting:  # the widest heads, that is as many whole ones as there can be
        wanted = min(shape.heads for shape in fitting)
    chosen = [shape for shape in fitting if shape.heads == wanted]
    if not chosen:
        possible = ", ".join(f"{s.heads} over {s.groups}" for s in fitting) or "none at this hidden width"
        asked = ", ".join(
            f"prune.{name} = {value}" for name, value in (("heads", heads), ("kv_heads", groups)) if value is not None
        )
        raise Problem(
            f"prune.hidden = {hidden}{' with ' * bool(asked)}{asked} does not fit {base.heads} heads of {base.width} "
            f"over {base.groups} key-value heads ({family})",
            f"Heads over key-value heads that fit: {possible}; hidden widths: multiples of {base.width}.",
        )
    return max(chosen, key=lambda shape: shape.groups)


def _candidates(base: HeadShape, family: str, hidden: int, before: int) -> list[HeadShape]:
    """Every head shape that this family can have at this hidden width."""
    if family == "phi3":
        widths = [hidden // heads for heads in range(1, hidden // STEP + 1) if hidden % heads == 0]
        counts = [
            (hidden // w, w)
            for w in widths
            if w == base.width or (w < base.width and not (w % STEP or hidden == before))
        ]
    elif family in SQUARE:
        counts = [(hidden // base.width, base.width)] if hidden % base.width == 0 else []
    else:
        divides = [n for n in range(1, base.heads + 1) if family != "llama" or hidden % n == 0]
        counts = [(heads, base.width) for heads in divides]
    largest = base.heads // base.groups
    return [
        HeadShape(heads, groups, width)
        for heads, width in counts
        for groups in range(1, base.groups + 1)
        if heads % groups == 0 and heads // groups <= largest
    ]


def kept_numbers(before: int, after: int, partial: float) -> list[int]:
    """Which of a head's `before` query and key numbers stay: rotary pairs at even distances, then what is not rotated.

    Transformers keeps number i of a pair in the first half of the rotated part and its partner in the second.
    """
    if before == after:
        return list(range(before))
    pairs, kept = (int(width * partial) // 2 for width in (before, after))
    first = [place * pairs // kept for place in range(kept)]
    still, kept_still = before - 2 * pairs, after - 2 * kept
    rest = [2 * pairs + place * still // kept_still for place in range(kept_still)]
    return [*first, *(pairs + place for place in first), *rest]


def cut_rotary(config: PreTrainedConfig, shape: HeadShape) -> None:
    """State the kept pairs' own frequencies, where heads are narrower than the base's; in place, before other cuts."""
    before = head_width(config)
    if before == shape.width:
        return
    rope = dict(config.rope_parameters)
    partial, theta = float(rope.get("partial_rotary_factor", 1.0)), float(rope["rope_theta"])
    wide, narrow = (int(width * partial) for width in (before, shape.width))
    kept = kept_numbers(before, shape.width, partial)[: narrow // 2]
    scaled = rope.get("rope_type", "default") == "longrope"
    for name in ("short_factor", "long_factor"):
        factors = rope[name] if scaled else [1.0] * (wide // 2)
        rope[name] = [factors[old] * theta ** (2 * old / wide - 2 * new / narrow) for new, old in enumerate(kept)]
    if not scaled:
        longest = config.max_position_embeddings
        config.original_max_position_embeddings = longest
        rope |= {"rope_type": "longrope", "factor": 1.0, "attention_factor": 1.0}
        rope["original_max_position_embeddings"] = longest
    config.rope_parameters = rope
