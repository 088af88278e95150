"""A GGUF becomes an ordinary Transformers checkpoint: bfloat16 safetensors, configuration, tokenizer.

In:  a GGUF of the Qwen2, Llama, Qwen3 or Phi-3 family.
Out: a folder that `AutoModelForCausalLM` and `AutoTokenizer` load; its safetensors header says what made it.
Does not know: where the file came from, recipes, runs.

Weights are read here rather than by Transformers, which takes several times as long, keeps them packed, and
takes a tied model whose file brings a finer copy of the embedding as `output.weight` for an untied one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.models.architecture import EMBEDDING, FAMILIES, HEAD
from potstill.models.gguf_reader import Metadata, Table, dequantised, read_table
from potstill.models.gguf_vocabulary import SPLITS
from potstill.problem import Problem
from potstill.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

FORMAT = "1"
"""Changes whenever the same GGUF would become another checkpoint."""
SAME_MATRIX = 0.9
"""Correlation above which `output.weight` and `token_embd.weight` are two roundings of one matrix."""
_REMEDY = "Give a checkpoint folder with safetensors instead."


def convert_gguf(path: Path, checkpoint: Path, sha256: str, progress: Progress) -> None:
    """Write the folder `checkpoint` from the GGUF at `path`; it appears under its name only when it is whole.

    Args:
        sha256: hash of the GGUF, kept in the safetensors header.

    Raises: Problem where the file is damaged, or says something that can't be carried over.
    """
    table = read_table(path)
    config = configuration(table, path)
    partial = checkpoint.with_name(f"{checkpoint.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = _read_weights(path, table, progress)
    config.tie_word_embeddings = _tie(state)
    config.architectures = [_check_weights(state, config, path)]
    try:
        _save(state, config, read_tokenizer(path, table), partial, _stamp(sha256))
        shutil.rmtree(checkpoint, ignore_errors=True)
        partial.replace(checkpoint)
    except OSError as error:
        raise Problem(f"{checkpoint} can't be written ({error.strerror or error})", "Make room.") from error


def is_converted(checkpoint: Path, sha256: str) -> bool:
    """Whether `checkpoint` was made from the GGUF of this hash, by this version of the conversion."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(checkpoint / "model.safetensors", framework="np") as weights:
            found: dict[str, str] = weights.metadata() or {}
    except (SafetensorError, OSError):
        return False
    return found == _stamp(sha256)


def configuration(table: Table, path: Path) -> PreTrainedConfig:
    """The configuration that a GGUF's header describes; embeddings are untied until weights are seen."""
    from transformers import AutoConfig

    family = str(table.metadata.get("general.architecture"))
    if family not in FAMILIES:
        raise Problem(f"{path} holds a model of type {family!r}", f"Readable here: {', '.join(FAMILIES)}.")
    _refuse_scaling(table, family, path)
    try:
        values = _sizes(table, family) | _special_ids(table.metadata)
    except KeyError as error:
        raise Problem(f"{path} doesn't say {error.args[0]}", _REMEDY) from error
    biases = {name for name in ("attn_q.bias", "ffn_up.bias") if f"blk.0.{name}" in table.tensors}
    if family in ("llama", "qwen3"):
        values["attention_bias"] = "attn_q.bias" in biases
    if family == "llama":
        values["mlp_bias"] = "ffn_up.bias" in biases
    config: PreTrainedConfig = AutoConfig.for_model(family, **values)
    return config


def read_tokenizer(path: Path, table: Table) -> PreTrainedTokenizerBase:
    """The tokenizer inside a GGUF: llama.cpp's ids for every text in NFC.

    A GGUF can't say that Qwen's tokenizer brings text to NFC first. AutoTokenizer does so for every model of
    type qwen2, whatever tokenizer.json says; so that both agree, it is put in here.
    """
    from tokenizers import normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = str(table.metadata.get("tokenizer.ggml.pre", "default"))
    if table.metadata.get("tokenizer.ggml.model") == "gpt2" and split not in SPLITS.values():
        raise Problem(f"{path} splits text by the rule {split!r}, which isn't known here", _REMEDY)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True
    )
    if split == "qwen2":
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    if split == "smollm":  # Transformers doesn't know that it takes digits one by one
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _sizes(table: Table, family: str) -> dict[str, Any]:
    def key(name: str) -> Any:
        return table.metadata[f"{family}.{name}"]

    optional = {name.removeprefix(f"{family}."): value for name, value in table.metadata.items()}
    heads, width = key("attention.head_count"), key("embedding_length")
    head = optional.get("attention.key_length", width // heads)
    rope = {"rope_type": "default", "rope_theta": float(optional.get("rope.freq_base", 10000.0))}
    values: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": key("block_count"),
        "intermediate_size": key("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": optional.get("attention.head_count_kv", heads),
        "max_position_embeddings": key("context_length"),
        "rms_norm_eps": _shortest(key("attention.layer_norm_rms_epsilon")),
        "rope_parameters": rope,
        "vocab_size": table.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    if family == "phi3":
        rope["partial_rotary_factor"] = optional.get("rope.dimension_count", head) / head
        values["sliding_window"] = optional.get("attention.sliding_window") or None
    if family in ("llama", "qwen3"):
        values["head_dim"] = head
    return values


def _special_ids(metadata: Metadata) -> dict[str, int | None]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return {name: None if token is None else int(token) for name, token in found.items()}


def _shortest(value: float) -> float:
    """The number that was meant: 1e-06 rather than its float32 neighbour 9.999999974752427e-07."""
    import numpy as np

    return float(str(np.float32(value)))


def _refuse_scaling(table: Table, family: str, path: Path) -> None:
    scaling = table.metadata.get(f"{family}.rope.scaling.type", "none")
    if scaling != "none" or any(name.startswith("rope_") for name in table.tensors):
        raise Problem(f"{path} scales its rotary positions ({scaling}), which can't be carried over", _REMEDY)


def _read_weights(path: Path, table: Table, progress: Progress) -> dict[str, torch.Tensor]:
    import torch

    state = {}
    with progress.task(f"converting {path.name}", len(table.tensors), "tensors") as task:
        for name, weight in dequantised(path):
            state[name] = torch.from_numpy(weight).to(torch.bfloat16)
            task.advance()
    return state


def _tie(state: dict[str, torch.Tensor]) -> bool:
    """Whether the model is tied; if so the finer copy (the head's, if any) becomes the embedding."""
    import torch

    head = state.get(HEAD)
    if head is None:
        return True
    if head.shape != state[EMBEDDING].shape:
        return False
    rows = torch.linspace(0, len(head) - 1, min(len(head), 4096)).long()
    pair = torch.stack([head[rows].float().flatten(), state[EMBEDDING][rows].float().flatten()])
    if torch.corrcoef(pair)[0, 1] < SAME_MATRIX:
        return False
    state[EMBEDDING] = state.pop(HEAD)
    return True


def _check_weights(state: Mapping[str, torch.Tensor], config: PreTrainedConfig, path: Path) -> str:
    """Compare names and shapes with the model that `config` stands for; returns its class's name."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop(HEAD)
    found = {name: tuple(weight.shape) for name, weight in state.items()}
    if found != expected:
        wrong = sorted(dict(found.items() ^ expected.items()))
        raise Problem(f"{path} lacks weights, or has too many ({', '.join(wrong[:3])})", _REMEDY)
    return type(model).__name__


def _save(
    state: dict[str, torch.Tensor],
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    stamp: dict[str, str],
) -> None:
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    ends = dict.fromkeys([tokenizer.eos_token_id, tokenizer.pad_token_id])
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=list(ends), pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata=stamp)
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors makes it private


def _stamp(sha256: str) -> dict[str, str]:
    return {"format": "pt", "potstill.source_sha256": sha256, "potstill.conversion": FORMAT}
