"""Mixes: which type each tensor of a GGUF gets, where not all get the same.

In:  the name of a mix, or a table of patterns; names of tensors.
Out: a type for every name.
Does not know: shapes, files, how numbers are packed.

A name says what is inside: `Q4_0-embedding-Q8_0` is Q4_0 with the embedding (and the head) in Q8_0; any of GROUPS may
follow. `Q4_K_M` and `Q5_K_M` are llama.cpp's own: more bits for the head, and for attn_v and ffn_down of every layer
near either end and every third between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Protocol

import gguf

GROUPS = {
    "embedding": ("token_embd", "output"),
    "attention": ("attn_*",),
    "ffn_in": ("ffn_up", "ffn_gate"),
    "ffn_down": ("ffn_down",),
}
"""Parts of a model that one choice covers, and their tensors."""

LLAMA_MIXES = {"Q4_K_M": ("Q4_K", "Q5_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
"""Name → base, and the type of a fused attn_qkv (llama.cpp's llama-quant.cpp)."""
_LARGER = "Q6_K"
_LAYERS = 512
"""More than any model read here has: the table of names is the same for every layer."""


@dataclass(frozen=True)
class Mix:
    """A type for every tensor.

    Args:
        name: of the mix, part of the file's name. base: type of all tensors that no pattern fits.
        tensors: pattern → type; the first that fits counts. A pattern is a tensor's name in the GGUF without
        `.weight`, whole (`blk.3.attn_v`) or without its layer (`attn_v`), and may hold `*`.
    """

    name: str
    base: str
    tensors: Mapping[str, str] = field(default_factory=dict)

    @property
    def types(self) -> tuple[str, ...]:
        """Every type that is named, the base first."""
        return tuple(dict.fromkeys((self.base, *self.tensors.values())))

    def type_of(self, stem: str) -> str:
        """The type wanted for one tensor."""
        return next((kind for pattern, kind in self.tensors.items() if fits(pattern, stem)), self.base)


class Described(Protocol):
    """A mix as a recipe holds it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def base(self) -> str:
        """Type of all that is not named."""

    @property
    def tensors(self) -> Mapping[str, str]:
        """Pattern → type."""


def fits(pattern: str, stem: str) -> bool:
    """True where `pattern` means the tensor `stem`, with or without its layer."""
    return fnmatchcase(stem, pattern) or fnmatchcase(stem.rpartition(".")[2], pattern)


def mix_named(name: str, stems: Sequence[str]) -> Mix:
    """The mix that a name means, for a model with these tensors; a type alone is a mix of one.

    Whether the types exist is not looked at here. A name that is no mix at all becomes the base, to be refused there.
    """
    if name in LLAMA_MIXES:
        return _llama_mix(name, stems)
    base, *rest = name.split("-")
    pairs = list(zip(rest[::2], rest[1::2], strict=False))
    if len(rest) % 2 or any(group not in GROUPS for group, _ in pairs):
        return Mix(name, name)
    return Mix(name, base, {pattern: kind for group, kind in pairs for pattern in GROUPS[group]})


def mix_of(kind: str, own: Iterable[Described]) -> str | Mix:
    """What a type's name means: a mix of somebody's own, if it has one's name, else the name itself."""
    return next((Mix(one.name, one.base, one.tensors) for one in own if one.name == kind), kind)


def name_of(types: Mapping[str, str]) -> str:
    """The name of the mix with these types: group → type, for every one of GROUPS. The inverse of `mix_named`."""
    listed = [types[group] for group in GROUPS]
    base = max(listed, key=lambda kind: (listed.count(kind), -listed.index(kind)))
    others = [f"-{group}-{types[group]}" for group in GROUPS if types[group] != base]
    return base + "".join(others)


def group_of(stem: str) -> str | None:
    """Which of GROUPS a tensor belongs to; None for norms and frequencies."""
    return next((group for group, patterns in GROUPS.items() if any(fits(one, stem) for one in patterns)), None)


def stem_of(name: str) -> str:
    """A tensor's name in the GGUF without its suffix, from that or from Transformers' name."""
    module, _, kind = name.rpartition(".")
    found = _tables().get(module, module)
    return found if kind in ("weight", "bias") else name


def _llama_mix(name: str, stems: Sequence[str]) -> Mix:
    base, fused = LLAMA_MIXES[name]
    head = "output" if "output" in stems else "token_embd"
    numbers = [int(stem.split(".")[1]) for stem in stems if stem.startswith("blk.")]
    layers = max(numbers, default=-1) + 1
    wide = [layer for layer in range(layers) if _gets_more_bits(layer, layers)]
    larger = {f"blk.{layer}.{part}": _LARGER for layer in wide for part in ("attn_v", "ffn_down")}
    return Mix(name, base, {head: _LARGER, **larger, "attn_qkv": fused})


def _gets_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


@cache
def _tables() -> dict[str, str]:
    """Transformers' module → stem, for the families whose names differ between them."""
    families = (gguf.MODEL_ARCH.PHI3, gguf.MODEL_ARCH.QWEN2)
    return {
        name: stem
        for family in families
        for name, (_, stem) in gguf.get_tensor_name_map(family, _LAYERS).mapping.items()
    }
