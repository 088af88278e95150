"""GGUF files read: is it whole, what does its header say, what are its weights.

In:  the path of a GGUF, ours or anybody's.
Out: metadata; a Problem where the file is damaged; float32 weights under Transformers' names.
Does not know: how such a file is written, llama.cpp, recipes, runs.

Not by `gguf.GGUFReader`, which makes an object of each of 150,000 tokens and tells of damage in numpy's words; tests
hold the two equal.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFValueType
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from potstill.models import architecture
from potstill.problem import Problem

Value = str | int | float | bool
Metadata = dict[str, Value]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}


@dataclass(frozen=True)
class StoredTensor:
    """One row of a file's tensor table."""

    name: str
    shape: tuple[int, ...]
    """Torch order: the last dimension is the row."""
    type_name: str
    start: int
    """First byte, counted from the start of the file."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Table:
    """Everything that stands before the weights."""

    metadata: Metadata
    """Single values; arrays (tokens, merges) are left out."""
    arrays: dict[str, int]
    """Name of every array → how many entries it has."""
    tensors: dict[str, StoredTensor]


def read_table(path: Path) -> Table:
    """Read and check a file's header, key by key, and its table of tensors against its size.

    Takes about 0.1 s for 150,000 tokens; weights aren't touched.

    Raises: Problem where the file is not there, is not a GGUF, ends too early, or contradicts itself.
    """
    if not path.is_file():
        raise Problem(f"{path} is not there", "Give the path of a GGUF file.")
    if path.stat().st_size < 24:
        raise Problem(f"{path} is not a GGUF file", "Give the path of a file written by llama.cpp or potstill export.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _Header(path, content).read()


def check_gguf(path: Path) -> None:
    """Raise Problem unless `path` is a GGUF with a sound header whose tensors all lie inside the file."""
    read_table(path)


def read_metadata(path: Path) -> Metadata:
    """Key → value for every single value in the header (arrays are left out). Errors as for `read_table`."""
    return read_table(path).metadata


def dequantised(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every weight under the name that Transformers gives it, as float32, one at a time.

    The exact inverse of writing for F32 (and F16 and BF16, of numbers these can hold); for the other types,
    what llama.cpp computes with.

    Raises: as `read_table`; Problem where the architecture or a tensor's name is unknown.
    """
    table = read_table(path)
    family = str(table.metadata.get("general.architecture"))
    if family not in architecture.FAMILIES:
        raise Problem(f"{path} holds a model of type {family!r}", f"Readable here: {', '.join(architecture.FAMILIES)}.")
    layers = int(table.metadata[f"{family}.block_count"])
    heads = int(table.metadata[f"{family}.attention.head_count"])
    heads_kv = int(table.metadata.get(f"{family}.attention.head_count_kv", heads))
    modules = {stem: module for module, stem in architecture.module_names(family, layers).items()}
    for tensor in table.tensors.values():
        if tensor.name.startswith("rope_"):
            continue  # computed from the configuration, not a weight
        stem, _, kind = tensor.name.rpartition(".")
        if stem not in modules:
            raise Problem(f"{path} holds a tensor {tensor.name!r} that {family} doesn't have", "Use another file.")
        weight = _read_weight(path, tensor)
        turned = architecture.reordered_heads(family, modules[stem], heads, heads_kv)
        yield (
            f"{modules[stem]}.{kind}",
            weight if turned is None else architecture.separate_halves(weight, turned),
        )


def load_state(path: Path) -> dict[str, NDArray[np.float32]]:
    """All of `dequantised` at once: a state dict of arrays; no `lm_head.weight` where the model is tied."""
    return dict(dequantised(path))


def _read_weight(path: Path, tensor: StoredTensor) -> NDArray[np.float32]:
    raw = np.fromfile(path, dtype=np.uint8, count=tensor.size, offset=tensor.start)
    rows = raw.reshape(*tensor.shape[:-1], -1)
    result: NDArray[np.float32] = dequantize(rows, GGMLQuantizationType[tensor.type_name]).astype(
        np.float32, copy=False
    )
    return result.reshape(tensor.shape)


class _Header:
    """A cursor over the bytes before the weights; every step checks that the file goes on that far."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self._size = len(content)
        self._at = 0

    def read(self) -> Table:
        if self._take(4) != _MAGIC:
            raise Problem(
                f"{self._path} is not a GGUF file",
                "Give the path of a file written by llama.cpp or potstill export.",
            )
        version = int(self._scalar("<I"))
        if version not in _VERSIONS:
            raise Problem(f"{self._path} is GGUF version {version}", "Readable are versions 2 and 3, little-endian.")
        tensors, keys = int(self._scalar("<Q")), int(self._scalar("<Q"))
        metadata: Metadata = {}
        arrays: dict[str, int] = {}
        for _ in range(keys):
            name = self._string()
            if name in metadata or name in arrays:
                raise self._damaged(f"the key {name!r} stands there twice")
            kind = self._kind()
            if kind is GGUFValueType.ARRAY:
                arrays[name] = self._skip_array()
            else:
                metadata[name] = self._string() if kind is GGUFValueType.STRING else self._scalar(_SCALARS[kind])
        return Table(metadata, arrays, self._tensors(tensors, int(metadata.get("general.alignment", 32))))

    def _tensors(self, count: int, alignment: int) -> dict[str, StoredTensor]:
        if alignment < 1:
            raise self._damaged("the alignment is 0")
        entries = [self._tensor() for _ in range(count)]
        base = -(-self._at // alignment) * alignment
        table: dict[str, StoredTensor] = {}
        due = 0
        for name, shape, type_name, offset, size in entries:
            if offset != due:
                raise self._damaged(f"the tensor {name!r} begins at {offset} where {due} was due")
            if name in table:
                raise self._damaged(f"the tensor {name!r} stands there twice")
            if base + offset + size > self._size:
                raise self._cut()
            table[name] = StoredTensor(name, shape, type_name, base + offset, size)
            due += -(-size // alignment) * alignment
        return table

    def _tensor(self) -> tuple[str, tuple[int, ...], str, int, int]:
        name = self._string()
        dimensions = int(self._scalar("<I"))
        if not 1 <= dimensions <= 4:
            raise self._damaged(f"the tensor {name!r} has {dimensions} dimensions")
        shape = tuple(int(self._scalar("<Q")) for _ in range(dimensions))[::-1]
        number, offset = int(self._scalar("<I")), int(self._scalar("<Q"))
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise self._damaged(f"the tensor {name!r} has the unknown type {number}") from None
        block, size = GGML_QUANT_SIZES[kind]
        numbers = 1
        for length in shape:
            numbers *= length
        if shape[-1] % block or numbers == 0:
            raise self._damaged(f"the tensor {name!r} of shape {shape} can't be {kind.name}")
        return name, shape, kind.name, offset, numbers // block * size

    def _skip_array(self) -> int:
        kind, count = self._kind(), int(self._scalar("<Q"))
        if kind is GGUFValueType.ARRAY:
            raise self._damaged("an array holds arrays")
        if kind is not GGUFValueType.STRING:
            self._move(count * struct.calcsize(_SCALARS[kind]))
            return count
        content, at, unpack = self._content, self._at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > self._size:
                raise self._cut()
            at += 8 + unpack(content, at)[0]
        self._move(at - self._at)
        return count

    def _kind(self) -> GGUFValueType:
        number = int(self._scalar("<I"))
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self._damaged(f"a value has the unknown type {number}") from None

    def _string(self) -> str:
        try:
            return self._take(int(self._scalar("<Q"))).decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged("a name is not UTF-8") from None

    def _scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _take(self, count: int) -> bytes:
        start = self._at
        self._move(count)
        return self._content[start : self._at]

    def _move(self, count: int) -> None:
        if self._at + count > self._size:
            raise self._cut()
        self._at += count

    def _cut(self) -> Problem:
        return Problem(f"{self._path} ends too early ({self._size:,} bytes)", "Fetch or export it again.")

    def _damaged(self, why: str) -> Problem:
        return Problem(f"{self._path} is damaged: {why}", "Fetch or export it again.")
