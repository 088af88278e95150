"""Adapters: a second, small GGUF that lies beside a model's and is loaded with it.

In:  a model's file; ids of rows of its head, and what those rows lack; or a trained low-rank adapter.
Out: LoRA adapters as stock llama.cpp takes them (`--lora`); what is loaded where a file is opened.
Does not know: which rows are worth it, how an adapter was trained, recipes, runs.

One rule says what is loaded:
    MODEL.gguf                is loaded with MODEL.adapter.gguf, if that lies beside it: it mends the file.
    MODEL.NAME.adapter.gguf   stands for MODEL.gguf with this adapter switched on as well.
So whoever opens a model by its path opens it with a named adapter by that one's path, and without it by its own.

LoRA adds `B (A x)` to a product (Hu et al. 2021, arXiv:2106.09685). With B one-hot at some rows of the head and A the
difference between those rows and their quantised form, these rows count as if they had not been quantised, and all
others get exactly 0. llama.cpp scales by alpha / rank: alpha = rank leaves it alone. A tied model refuses an adapter on
`output.weight`, and one on `token_embd.weight` aborts the process: the model's file must hold a head of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from potstill.models.lora import Lora

ENDING = ".adapter.gguf"
HEAD = "output.weight"
NAME = re.compile(r"[\w-]+")
_BLOCK = 32
"""Ranks are filled up to a multiple, so that B can be Q4_0: 0 and 1 are exact in it."""


@dataclass(frozen=True)
class Parts:
    """What is loaded together: a model's file, and the adapters on it, in their order."""

    model: Path
    adapters: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(path.stat().st_size for path in (self.model, *self.adapters))


def parts_of(gguf: Path) -> Parts:
    """What is loaded for the path of a model, or of a named adapter. Raises: Problem where its model is not there."""
    if not gguf.name.endswith(ENDING):
        mending = adapter_beside(gguf)
        return Parts(gguf, () if mending is None else (mending,))
    stem, _, _ = gguf.name.removesuffix(ENDING).rpartition(".")
    model = gguf.with_name(f"{stem}.gguf")
    for path in (gguf, model):
        if not stem or not path.is_file():
            raise Problem(
                f"{gguf} is no adapter with its model beside it", "Put both into one folder, or give the model."
            )
    return Parts(model, (*parts_of(model).adapters, gguf))


def adapter_path(gguf: Path, name: str | None = None) -> Path:
    """Where an adapter of a model lies; without a name the one that is always loaded with it."""
    return gguf.with_name(gguf.stem + (f".{name}" if name else "") + ENDING)


def adapter_beside(gguf: Path) -> Path | None:
    """The adapter that is always loaded with a model; None where there is none."""
    path = adapter_path(gguf)
    return path if path.is_file() else None


def adapter_name(file: str) -> str:
    """The name in the file's name of a named adapter."""
    return file.removesuffix(ENDING).rpartition(".")[2]


def named_adapters(gguf: Path) -> dict[str, Path]:
    """Name → path of every adapter beside a model that can be switched on."""
    return {adapter_name(path.name): path for path in sorted(gguf.parent.iterdir()) if belongs(path, gguf)}


def belongs(adapter: Path, gguf: Path) -> bool:
    """Whether this path is that of a named adapter of the model."""
    name = adapter_name(adapter.name)
    return adapter == adapter_path(gguf, name) and NAME.fullmatch(name) is not None


def write_row_adapter(
    out: Path, family: str, rows: Sequence[int], residual: NDArray[np.float32], vocabulary: int
) -> None:
    """Write the adapter that adds `residual` to some rows of the head.

    Args:
        family: the model's architecture, as in its header. rows: [R] ids, none twice. residual: [R, d].
        vocabulary: V, rows of the head.
    """
    import numpy as np

    if len(rows) != len(residual) or len(set(rows)) != len(rows) or not 0 <= min(rows) <= max(rows) < vocabulary:
        raise ValueError(f"{len(rows)} row ids do not fit {len(residual)} rows of a head of {vocabulary}")
    rank = -(-len(rows) // _BLOCK) * _BLOCK
    down = np.zeros((rank, residual.shape[1]), dtype=np.float32)
    down[: len(rows)] = residual
    up = np.zeros((vocabulary, rank), dtype=np.float32)
    up[list(rows), np.arange(len(rows))] = 1.0
    _write(out, family, float(rank), [(f"{HEAD}.lora_a", down, "F16"), (f"{HEAD}.lora_b", up, "Q4_0")], {})


def write_lora_adapter(out: Path, lora: Lora, checkpoint: Path, metadata: Mapping[str, str]) -> None:
    """Write a trained adapter in float16.

    Rows of B are a weight's rows, so where a family's file has them in another order, B's go along.

    Args:
        checkpoint: the student it was trained on, for its config.json. metadata: as for `gguf.write_gguf`.

    Raises: Problem for a student that llama.cpp does not know; ValueError for an adapter of another student.
    """
    from transformers import AutoConfig

    from potstill.models import architecture

    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    family, heads = architecture.family_of(config), (config.num_attention_heads, config.num_key_value_heads)
    stems = architecture.module_names(family, config.num_hidden_layers)
    if unknown := lora.layers.keys() - stems.keys():
        raise ValueError(f"the adapter changes {min(unknown)}, which the student does not have")
    tensors = []
    for module, (down, up) in lora.layers.items():
        reordered = architecture.reordered_heads(family, module, *heads)
        rows = up.numpy() if reordered is None else architecture.interleave_halves(up.numpy(), reordered)
        tensors.append((f"{stems[module]}.weight.lora_a", down.numpy(), "F16"))
        tensors.append((f"{stems[module]}.weight.lora_b", rows, "F16"))
    _write(out, family, lora.alpha, tensors, metadata)


def _write(
    out: Path,
    family: str,
    alpha: float,
    tensors: Iterable[tuple[str, NDArray[np.float32], str]],
    metadata: Mapping[str, str],
) -> None:
    """Write an adapter whole or not at all; `tensors`: name, values, type."""
    from gguf import GGMLQuantizationType, GGUFWriter

    from potstill.models.quantise import quantise_rows

    partial = out.with_name(f"{out.name}.partial")
    writer = GGUFWriter(partial, family)
    try:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for key, value in metadata.items():
            writer.add_string(key if key.startswith("general.") else f"potstill.{key}", value)
        for name, values, kind in tensors:
            writer.add_tensor(name, quantise_rows(values, kind), raw_dtype=GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    partial.replace(out)
