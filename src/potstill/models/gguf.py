"""GGUF files, written from a Transformers checkpoint.

In:  a checkpoint folder (config.json, safetensors, tokenizer.json) of the Qwen2, Llama, Qwen3 or Phi-3
     family.
Out: a GGUF that stock llama.cpp loads.
Does not know: recipes, runs, how text is generated.

A tied model gets no `output.weight` (unless one is asked for): llama.cpp then uses the embedding. Tokenizers of the
Qwen family bring text to NFC before they split it; llama.cpp does not, so give it text that is NFC already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from potstill.machine import require_space
from potstill.models import architecture, gguf_vocabulary
from potstill.models.architecture import EMBEDDING, HEAD
from potstill.models.gguf_reader import Table, read_table
from potstill.models.gguf_vocabulary import Vocabulary, read_vocabulary
from potstill.models.mix import Mix, mix_named
from potstill.models.quantise import (
    plan_types,
    predicted_bytes,
    tensor_bytes,
)
from potstill.problem import Problem
from potstill.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

_FILE_TYPES = {"F32": "ALL_F32", "Q4_K": "MOSTLY_Q4_K_S", "Q5_K": "MOSTLY_Q5_K_S"}


def write_gguf(
    checkpoint: Path,
    out: Path,
    quantisation: str | Mix,
    *,
    metadata: Mapping[str, str],
    progress: Progress,
    moments: Mapping[str, Tensor] | None = None,
    untied: bool = False,
) -> None:
    """Write a Transformers checkpoint as a GGUF that stock llama.cpp loads.

    One tensor at a time is in memory; the file appears under its name only when it is whole and checked.

    Args:
        checkpoint: folder of a Qwen2, Llama, Qwen3 or Phi-3 model; safetensors, in one file or several.
        out: the file to make (and its folder); one that is there is replaced.
        quantisation: a type, the name of a mix, or a mix; what each tensor becomes is `quantise.plan_types`.
        metadata: keys that begin with "general." (name, license, ...) go into the header as they are, all
            others under "potstill." (the fingerprint of the run).
        progress: told the bytes written.
        moments: Transformers' name of a matrix → [d, d], of its inputs, so that its errors make up for each other
            (`rounding`); where a name is missing, every weight is rounded for itself.
        untied: write the head of a tied model too, as a tensor of its own: an adapter on the head needs one.

    Raises: Problem where the checkpoint lacks something, is of another family, holds numbers that are not
        finite, or where the disk is too full.
    """
    config = architecture.read_config(checkpoint)
    model = _Model(checkpoint, config, untied)
    vocabulary = read_vocabulary(checkpoint, config.vocab_size)
    types = plan_types(model.shapes, quantisation)
    out.parent.mkdir(parents=True, exist_ok=True)
    require_space(out.parent, predicted_bytes(model.shapes, quantisation), str(out), "write elsewhere")
    with _replacing(out) as partial:
        writer = GGUFWriter(partial, architecture.family_of(config))
        try:
            name = vocabulary.fitting_name(metadata.get("general.name", checkpoint.resolve().name))
            _add_general(writer, model, quantisation, {**metadata, "general.name": name})
            _add_hyperparameters(writer, config)
            vocabulary.add_to(writer)
            _write_tensors(writer, model, types, moments or {}, out.name, progress)
        finally:
            writer.close()
        _check_written(partial, vocabulary)


def _missing_keys(table: Table) -> list[str]:
    family = table.metadata.get("general.architecture", "")
    order = "merges" if table.metadata.get("tokenizer.ggml.model") == "gpt2" else "scores"
    required = [f"{family}.{key}" for key in architecture.REQUIRED]
    required += [
        *gguf_vocabulary.REQUIRED,
        f"tokenizer.ggml.{order}",
        "general.architecture",
        "general.file_type",
    ]
    return [key for key in required if key not in table.metadata and key not in table.arrays]


class _Model:
    """The checkpoint's weights as the file wants them: names, shapes, and each one when its turn comes."""

    def __init__(self, checkpoint: Path, config: PreTrainedConfig, untied: bool) -> None:
        self.family = architecture.family_of(config)
        self._heads = (config.num_attention_heads, config.num_key_value_heads)
        self._stems = architecture.module_names(self.family, config.num_hidden_layers)
        tied = bool(config.tie_word_embeddings)
        if tied and not untied:
            del self._stems["lm_head"]
        self._extra = architecture.rope_tensors(config)
        self._files = _weight_files(checkpoint)
        self._source = {HEAD: EMBEDDING} if tied else {}
        if tied:
            self._files.pop(HEAD, None)
        if tied and untied:
            self._files[HEAD] = self._files[EMBEDDING]
        self.shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in self._extra.items()}
        self.shapes |= self._stored_shapes(checkpoint)

    def _stored_shapes(self, checkpoint: Path) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for name, file in self._files.items():
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if name.rpartition(".")[0] not in self._stems:
                raise Problem(f"{file} holds {name!r}, which {self.family} doesn't have", "Save the model again.")
            with _opened(file) as weights:
                shapes[name] = tuple(weights.get_slice(self._source.get(name, name)).get_shape())
        missing = [module for module in self._stems if f"{module}.weight" not in shapes]
        if missing:
            raise Problem(f"{checkpoint} has no weights for {', '.join(missing[:3])}", "Save the model again.")
        return shapes

    def gguf_name(self, name: str) -> str:
        if name in self._extra:
            return name
        module, _, kind = name.rpartition(".")
        return f"{self._stems[module]}.{kind}"

    def weight(self, name: str) -> NDArray[np.float32]:
        if name in self._extra:
            return self._extra[name]
        with _opened(self._files[name]) as weights:
            weight: NDArray[np.float32] = weights.get_tensor(self._source.get(name, name)).float().numpy()
        heads = architecture.reordered_heads(self.family, name.rpartition(".")[0], *self._heads)
        return weight if heads is None else architecture.interleave_halves(weight, heads)


def _weight_files(checkpoint: Path) -> dict[str, Path]:
    """Tensor name → the safetensors file it is in."""
    index = checkpoint / "model.safetensors.index.json"
    if index.is_file():
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: checkpoint / file for name, file in names.items()}
    file = checkpoint / "model.safetensors"
    with _opened(file) as weights:
        return dict.fromkeys(weights.keys(), file)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        try:
            weights = stack.enter_context(safe_open(file, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise Problem(f"{file} can't be read ({error})", "Save the model again.") from error
        yield weights


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A name beside `out` to write to; renamed when the block ends well, removed when it doesn't."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        yield partial
        partial.replace(out)
    except OSError as error:
        raise Problem(f"{out} can't be written ({error.strerror})", "Make room, or write elsewhere.") from error
    finally:
        partial.unlink(missing_ok=True)


def _add_general(writer: GGUFWriter, model: _Model, quantisation: str | Mix, metadata: Mapping[str, str]) -> None:
    numbers = sum(int(np.prod(shape)) for shape in model.shapes.values())
    writer.add_type("model")
    writer.add_size_label(f"{numbers / 1e6:.0f}M")
    writer.add_file_type(_file_type(quantisation))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in metadata.items():
        writer.add_string(key if key.startswith("general.") else f"potstill.{key}", value)


def _file_type(quantisation: str | Mix) -> LlamaFileType:
    """What llama.cpp shows as the file's type: of a mix, that of its base."""
    base = quantisation.base if isinstance(quantisation, Mix) else quantisation
    if f"MOSTLY_{base}" not in LlamaFileType.__members__ and base not in _FILE_TYPES:
        base = mix_named(base, ()).base
    return LlamaFileType[_FILE_TYPES.get(base, f"MOSTLY_{base}")]


def _add_hyperparameters(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    for key, value in architecture.hyperparameters(config).items():
        name = f"{writer.arch}.{key}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)


def _write_tensors(
    writer: GGUFWriter,
    model: _Model,
    types: Mapping[str, str],
    moments: Mapping[str, Tensor],
    label: str,
    progress: Progress,
) -> None:
    from potstill.models.rounding import round_rows

    sizes = {name: tensor_bytes(model.shapes[name], types[name]) for name in types}
    for name, type_name in types.items():
        kind = GGMLQuantizationType[type_name]
        writer.add_tensor_info(
            model.gguf_name(name), model.shapes[name], np.dtype(np.float32), sizes[name], raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with progress.task(label, sum(sizes.values()), "B") as task:
        for name, type_name in types.items():
            try:
                writer.write_tensor_data(round_rows(model.weight(name), type_name, moments.get(name)))
            except Problem as problem:
                raise Problem(f"{name}: {problem.what}", problem.remedy) from problem
            task.advance(sizes[name])


def _check_written(partial: Path, vocabulary: Vocabulary) -> None:
    table = read_table(partial)
    missing = _missing_keys(table)
    if missing or table.arrays["tokenizer.ggml.tokens"] != len(vocabulary.tokens):
        raise RuntimeError(f"the file just written lacks {', '.join(missing) or 'tokens'}")
