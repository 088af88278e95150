"""Adapters: a second, small GGUF that lies beside a model's and is loaded with it.

In:  a model's file; ids of rows of its head, and what those rows lack.
Out: `<model>.adapter.gguf`, a LoRA adapter as stock llama.cpp takes it (`--lora`); where a model's adapter lies.
Does not know: which rows are worth it, recipes, runs.

LoRA adds `B (A x)` to a product (Hu et al. 2021, arXiv:2106.09685). With B one-hot at some rows of the head and A the
difference between those rows and their quantised form, these rows count as if they had not been quantised, and all
others get exactly 0. llama.cpp scales by alpha / rank: alpha = rank leaves it alone. A tied model refuses an adapter on
`output.weight`, and one on `token_embd.weight` aborts the process: the model's file must hold a head of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

ENDING = ".adapter.gguf"
HEAD = "output.weight"
_BLOCK = 32
"""Ranks are filled up to a multiple, so that B can be Q4_0: 0 and 1 are exact in it."""


def adapter_path(gguf: Path) -> Path:
    """Where the adapter of a model lies, if it has one: whoever copies the model copies it too."""
    return gguf.with_name(gguf.stem + ENDING)


def adapter_beside(gguf: Path) -> Path | None:
    """The adapter that is loaded with a model; None where there is none."""
    path = adapter_path(gguf)
    return path if path.is_file() else None


def write_row_adapter(
    out: Path, family: str, rows: Sequence[int], residual: NDArray[np.float32], vocabulary: int
) -> None:
    """Write the adapter that adds `residual` to some rows of the head.

    Args:
        family: the model's architecture, as in its header. rows: [R] ids, none twice. residual: [R, d].
        vocabulary: V, rows of the head.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    from potstill.models.quantise import quantise_rows

    if len(rows) != len(residual) or len(set(rows)) != len(rows) or not 0 <= min(rows) <= max(rows) < vocabulary:
        raise ValueError(f"{len(rows)} row ids do not fit {len(residual)} rows of a head of {vocabulary}")
    rank = -(-len(rows) // _BLOCK) * _BLOCK
    down = np.zeros((rank, residual.shape[1]), dtype=np.float32)
    down[: len(rows)] = residual
    up = np.zeros((vocabulary, rank), dtype=np.float32)
    up[list(rows), np.arange(len(rows))] = 1.0
    partial = out.with_name(f"{out.name}.partial")
    writer = GGUFWriter(partial, family)
    try:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(rank))
        for name, values, kind in ((f"{HEAD}.lora_a", down, "F16"), (f"{HEAD}.lora_b", up, "Q4_0")):
            writer.add_tensor(name, quantise_rows(values, kind), raw_dtype=GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    partial.replace(out)
