"""Shapes worth trying on a device, chosen by arithmetic alone.

In:  the model a student is cut from, its vocabulary, a number format, the largest file a device takes.
Out: a few `Candidate`s that span file sizes, depths and widths; none is larger than allowed.
Does not know: speed, quality, files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from potstill.models.quantise import predicted_bytes
from potstill.problem import Problem
from potstill.prune.depth import sensible_layers
from potstill.prune.shape import ROW, StudentSpec, choose_shape, count_parameters, student_config
from potstill.recipe import PruneSection

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from potstill.models.mix import Mix
    from potstill.vocab.map import VocabMap

SMALLER = 0.62
"""Each step's files are so much smaller than those of the step before: three steps span a factor of 2.6."""
BLOCK = 256
"""The longest block of any type: rows that divide by it can have them all."""
DEPTHS = (1.0, 1.25, 0.7)
"""Multiples of the sensible depth that are tried at each file size."""
NARROWER = (0.875, 0.6)
"""A narrower stream is sought between these shares of the base's."""


@dataclass(frozen=True)
class Candidate:
    """A shape, its parameters, and what its file will weigh."""

    spec: StudentSpec
    parameters: int
    file_mb: float

    @property
    def name(self) -> str:
        """`20 × 1568, hidden 896`."""
        return f"{self.spec.layers} × {self.spec.ffn}, hidden {self.spec.hidden}"


@dataclass(frozen=True)
class Material:
    """What candidates are made of.

    Args:
        config: of the model they are cut from. vocabulary: its rows that stay; None: all.
        section: heads and hidden width, where the recipe fixes them; its layers, ffn and parameters do not count.
        quantisation: a type, the name of a mix, or a mix.
    """

    config: PreTrainedConfig
    vocabulary: VocabMap | None
    section: PruneSection
    quantisation: str | Mix

    @property
    def tokens(self) -> int:
        """V."""
        return int(self.config.vocab_size) if self.vocabulary is None else self.vocabulary.size

    def spec(self, hidden: int | None) -> StudentSpec:
        """The smallest shape of that hidden width (None: the recipe's); its depth and neurons are open.

        Raises: Problem where no heads fit that width.
        """
        wanted = {"layers": 1, "ffn": ROW, **({} if hidden is None else {"hidden": hidden})}
        return choose_shape(self.config, self.tokens, self.section.model_copy(update=wanted))


class Scales:
    """What files of one hidden width weigh, for any number of layers and neurons."""

    def __init__(self, material: Material, hidden: int | None) -> None:
        """`hidden`: None: the recipe's. Raises: Problem where no heads fit that width."""
        self._material, self.spec = material, material.spec(hidden)

    @cached_property
    def _shapes(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Tensor of a student of one layer → for each dimension its size at ROW neurons, and what ROW more add."""
        least, more = (self._build(ffn) for ffn in (ROW, 2 * ROW))
        return {
            name: tuple((size, after - size) for size, after in zip(shape, more[name], strict=True))
            for name, shape in least.items()
        }

    def _build(self, ffn: int) -> dict[str, tuple[int, ...]]:
        import torch
        from transformers import AutoModelForCausalLM

        wanted = student_config(self._material.config, replace(self.spec, ffn=ffn), self._material.vocabulary)
        with torch.device("meta"):  # shapes without weights
            model = AutoModelForCausalLM.from_config(wanted)
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def weigh(self, layers: int, ffn: int) -> int:
        """Bytes of the file."""
        more = ffn // ROW - 1
        shapes = {name: tuple(at + more * step for at, step in sizes) for name, sizes in self._shapes.items()}
        # All layers are alike; a name that holds no layer's number stays the one it is.
        whole = {
            name.replace(".layers.0.", f".layers.{layer}."): shape
            for layer in range(layers)
            for name, shape in shapes.items()
        }
        return predicted_bytes(whole, self._material.quantisation)

    def parameters(self, layers: int, ffn: int) -> int:
        """Parameters of such a student."""
        return count_parameters(self._material.config, replace(self.spec, layers=layers, ffn=ffn))

    def largest(self, layers: int, most: float) -> Candidate | None:
        """As many neurons as fit into so many bytes, in steps of ROW; None where not even ROW of them do."""
        begins = range(ROW, BLOCK + 1, ROW)
        counts = [ffn for begin in begins if (ffn := self._largest_from(begin, layers, most)) is not None]
        if not counts:
            return None
        spec = replace(self.spec, layers=layers, ffn=max(counts))
        return Candidate(spec, self.parameters(layers, spec.ffn), self.weigh(layers, spec.ffn) / 1e6)

    def _largest_from(self, begin: int, layers: int, most: float) -> int | None:
        """Of `begin`, `begin` + BLOCK, …: what types rows take depends on their rest by BLOCK, so bytes grow evenly."""
        available = int(self._material.config.intermediate_size)
        least = self.weigh(layers, begin)
        if begin > available or least > most:
            return None
        steps = int((most - least) // (self.weigh(layers, begin + BLOCK) - least))
        return begin + BLOCK * min(steps, (available - begin) // BLOCK)


def span(material: Material, size_mb: float | None, most: int) -> list[Candidate]:
    """At most `most` shapes, largest files first: several file sizes, and at each several depths and widths.

    Args:
        size_mb: no file is larger; None: up to the whole base in this format.

    Raises: Problem where not even the smallest shape is small enough.
    """
    full = Scales(material, None)
    streams = [full, *_narrower(material, full.spec.hidden)]
    top = min(1e6 * size_mb if size_mb else math.inf, full.weigh(*_whole(material)))
    found: dict[StudentSpec, Candidate] = {}
    for step in range(-(-most // (len(DEPTHS) + len(streams) - 1))):
        size = top * SMALLER**step
        for place, stream in enumerate(streams):
            for depth in DEPTHS if place == 0 else DEPTHS[:1]:
                candidate = stream.largest(_layers(material, stream, size, depth), size)
                if candidate is not None and len(found) < most:
                    found.setdefault(candidate.spec, candidate)
    if not found:
        raise _too_small(material, min(stream.weigh(1, ROW) for stream in streams), top)
    return sorted(found.values(), key=lambda one: -one.file_mb)


def _whole(material: Material) -> tuple[int, int]:
    """All layers, and all neurons in steps of ROW."""
    return int(material.config.num_hidden_layers), int(material.config.intermediate_size) // ROW * ROW


def _layers(material: Material, stream: Scales, size: float, depth: float) -> int:
    """`depth` times the layers that are sensible in files of so many bytes."""
    whole = _whole(material)
    # What a parameter weighs hardly depends on the shape; the exact neurons are found by weighing.
    parameters = round(size / stream.weigh(*whole) * stream.parameters(*whole))
    return min(whole[0], max(1, round(depth * sensible_layers(material.config, stream.spec, parameters))))


def _narrower(material: Material, hidden: int) -> list[Scales]:
    """The widest of the narrower streams that the base's heads fit into, if there is one."""
    most, least = (int(share * hidden) // ROW * ROW for share in NARROWER)
    for width in range(most, least - 1, -ROW):
        try:
            return [Scales(material, width)]
        except Problem:
            continue
    return []


def _too_small(material: Material, least: int, most: float) -> Problem:
    return Problem(
        f"--size {most / 1e6:g} MB excludes every shape: the smallest, 1 × {ROW}, takes "
        f"{least / 1e6:.1f} MB, {least / most - 1:.0%} more, nearly all of it for {material.tokens:,} tokens",
        f"Allow more than {least / 1e6:.0f} MB, lower vocab.size, or choose a smaller --type.",
    )
