"""Which number format each tensor of a GGUF gets, how many bytes that makes, and the conversion itself.

In:  tensor shapes or float32 rows, and the name of a GGML type ("F16", "Q8_0", "Q4_0", "Q6_K", ...) or a mix of them.
Out: a type for every tensor; bytes; rows in that type, as llama.cpp itself would write them.
Does not know: files, tokenizers, architectures.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from potstill.models import library
from potstill.models.mix import Mix, fits, mix_named, stem_of
from potstill.problem import Problem

QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "IQ4_NL", "Q4_0")
FALLBACKS = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"}
"""K-quants pack 256 numbers; rows that only divide by 32 take the next larger old type, as llama.cpp does."""

ALIGNMENT = 32
VOCABULARY_BYTES_A_TOKEN = 40
"""A token's text, type and merge in the file; 39.7 measured on Qwen2.5's 151,936."""

_BYTES_A_TASK = 1 << 22


def check_quantisation(quantisation: str) -> str:
    """Return `quantisation` if this module can write it; raise Problem naming those it can otherwise."""
    if quantisation not in QUANTISATIONS:
        raise Problem(f"{quantisation!r} is not a GGUF type we write", f"Use one of {', '.join(QUANTISATIONS)}.")
    return quantisation


def choose_type(shape: Sequence[int], quantisation: str) -> str:
    """The GGML type of one tensor of `shape` (torch order: the last dimension is the row).

    Vectors (norms, biases) stay F32. A matrix takes `quantisation` if its rows divide by that type's block;
    else the entry in FALLBACKS; else, for rows that do not even divide by 32, F16.
    """
    if len(shape) < 2:
        return "F32"
    for candidate in (quantisation, FALLBACKS.get(quantisation)):
        if candidate is not None and shape[-1] % block_of(candidate)[0] == 0:
            return candidate
    return "F16"


def plan_types(shapes: Mapping[str, Sequence[int]], quantisation: str | Mix) -> dict[str, str]:
    """What each tensor would become in a GGUF.

    Args:
        shapes: tensor name → shape, as from `model.named_parameters()` (a tied output head must not be in it:
            it isn't written either), or with the names of the GGUF.
        quantisation: one of QUANTISATIONS, the name of a mix (see `mix`), or a mix.

    Returns: tensor name → GGML type name, in the order of `shapes`.
    Raises: Problem where a type is unknown, or a given mix names a tensor that isn't there.
    """
    stems = {name: stem_of(name) for name in shapes}
    if isinstance(quantisation, Mix):
        mix = quantisation
        _check_patterns(mix, list(stems.values()))
    else:
        mix = mix_named(quantisation, list(stems.values()))
    for type_name in mix.types:
        check_quantisation(type_name)
    return {name: choose_type(shape, mix.type_of(stems[name])) for name, shape in shapes.items()}


def _check_patterns(mix: Mix, stems: Sequence[str]) -> None:
    for pattern in mix.tensors:
        if not any(fits(pattern, stem) for stem in stems):
            known = sorted({stem.rpartition(".")[2] for stem in stems})
            raise Problem(
                f"The mix {mix.name!r} names {pattern!r}, and no tensor is called so",
                f"Name some of: {', '.join(known)}.",
            )


def tensor_bytes(shape: Sequence[int], type_name: str) -> int:
    """Bytes of one tensor of `shape` in `type_name`. Raises Problem where its rows do not divide."""
    block, size = block_of(type_name)
    if shape[-1] % block:
        raise Problem(
            f"Rows of {shape[-1]} numbers do not divide into {type_name} blocks of {block}",
            "Choose a width that divides, or another type.",
        )
    return int(np.prod(shape, dtype=np.int64)) // block * size


def predicted_bytes(shapes: Mapping[str, Sequence[int]], quantisation: str | Mix) -> int:
    """Bytes of the whole GGUF: exact for the tensors, within a percent for the vocabulary.

    Args and errors as for `plan_types`.
    """
    types = plan_types(shapes, quantisation)
    tensors = sum(padded(tensor_bytes(shape, types[name])) for name, shape in shapes.items())
    tokens = max((shape[0] for name, shape in shapes.items() if "embed_tokens" in name), default=0)
    return tensors + tokens * VOCABULARY_BYTES_A_TOKEN


def padded(size: int) -> int:
    """`size` rounded up to the alignment of tensors in the file, in bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def quantise_rows(
    rows: NDArray[np.float32], type_name: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Convert rows with the same C code that llama.cpp's own tools use.

    That code is always told how important each column is; where nothing is known, all are the same. It then searches
    each block's scale for the smallest error; without an importance it takes the largest value as the end of the
    scale. The search matters beyond its smaller error: weights that come from a coarser teacher file (Q5_0) lie
    exactly between two Q4_0 values, and a training that moves them by a hundredth of a step then decides every
    rounding. A student that lost 0.2 nats by training came out 5 nats worse (docs/log.md).

    Args:
        rows: [R, d] or [d] float32, all finite.
        type_name: one of QUANTISATIONS; d must divide by its block.
        importance: [d] > 0, how much an error of each column counts, in any unit; None: all the same.

    Returns: [R, bytes a row] (or [bytes]), uint8. The same on any number of threads.
    Raises: Problem where rows do not divide (the C code would write garbage), where a number is not finite,
        or where one does not fit into float16.
    """
    check_quantisation(type_name)
    row_bytes = tensor_bytes(rows.shape[-1:], type_name)
    matrix = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, rows.shape[-1])
    _check_range(matrix, type_name)
    result = np.empty((len(matrix), row_bytes), dtype=np.uint8)
    workers = os.cpu_count() or 1
    step = max(1, min(_BYTES_A_TASK // (4 * matrix.shape[1]), -(-len(matrix) // workers)))
    convert = _quantiser(type_name)
    weights = np.ones(matrix.shape[1], dtype=np.float32) if importance is None else importance.astype(np.float32)
    if weights.shape != matrix.shape[1:]:
        raise ValueError(f"importance {weights.shape} of rows of {matrix.shape[1]}")
    with ThreadPoolExecutor(workers) as pool:
        starts = range(0, len(matrix), step)
        list(pool.map(lambda at: convert(matrix[at : at + step], result[at : at + step], weights), starts))
    return result.reshape(*rows.shape[:-1], row_bytes)


def _check_range(matrix: NDArray[np.float32], type_name: str) -> None:
    largest = float(np.max(np.abs(matrix), initial=0.0))
    if not np.isfinite(largest):
        raise Problem("A weight is not a finite number", "Training went wrong: go back to an earlier checkpoint.")
    if largest > float(np.finfo(np.float16).max) and type_name not in ("F32", "BF16"):
        raise Problem(f"A weight of {largest:.3g} does not fit into {type_name}", "Write F32 or BF16 instead.")


def block_of(type_name: str) -> tuple[int, int]:
    """Numbers in a block of a type, and its bytes."""
    return GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]


class _Quantiser:
    """`ggml_quantize_chunk` for one type; ctypes lets go of the interpreter lock while it runs."""

    def __init__(self, ggml: ctypes.CDLL, type_name: str) -> None:
        self._chunk = ggml.ggml_quantize_chunk
        self._chunk.restype = ctypes.c_size_t
        self._chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        self._type = int(GGMLQuantizationType[type_name])
        ggml.ggml_quantize_init(ctypes.c_int(self._type))

    def __call__(self, rows: NDArray[np.float32], target: NDArray[np.uint8], importance: NDArray[np.float32]) -> None:
        count, width = rows.shape
        written = self._chunk(self._type, rows.ctypes.data, target.ctypes.data, 0, count, width, importance.ctypes.data)
        if written != target.nbytes:
            raise RuntimeError(f"ggml_quantize_chunk wrote {written} bytes where {target.nbytes} were due")


@cache
def _quantiser(type_name: str) -> _Quantiser:
    return _Quantiser(library.shared_library("PASSIVE"), type_name)
