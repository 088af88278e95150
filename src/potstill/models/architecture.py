"""How the four model families look in a GGUF: hyperparameter keys, tensor names, the order of Llama's rows.

In:  a Transformers configuration, or the metadata of a GGUF.
Out: key → value for the file's header; tensor names in both directions; weights reordered in both directions.
Does not know: files, tokenizers, number formats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from numpy.typing import NDArray

from potstill.problem import Problem, in_one_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FAMILIES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "phi3": gguf.MODEL_ARCH.PHI3,
}
REQUIRED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
)
"""Without any of these llama.cpp loads the file, takes a default of its own, and may be silently wrong."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""In Transformers, in every family; tied models have the first alone."""
_SPLIT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_NORMED = (*_SPLIT, "self_attn.q_norm", "self_attn.k_norm")
_FUSED = ("self_attn.qkv_proj", "mlp.gate_up_proj")
_OWN_MODULES = {"qwen2": _SPLIT, "llama": _SPLIT, "qwen3": _NORMED, "phi3": _FUSED}
_SHARED_MODULES = ("self_attn.o_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")


def read_config(checkpoint: Path) -> PreTrainedConfig:
    """A checkpoint's configuration. Raises: Problem where it is missing, damaged or of a family not known here."""
    path = checkpoint / "config.json"
    if not path.is_file():
        raise Problem(f"{path} is not there", "Give the folder of a Transformers checkpoint.")
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError) as error:
        raise Problem(f"{path} can't be read ({in_one_line(error)})", "Save the model again.") from error
    family_of(config)
    return config


def family_of(config: PreTrainedConfig) -> str:
    """The family's name, the same in Transformers and in llama.cpp. Raises Problem for any other model."""
    family = str(config.model_type)
    if family not in FAMILIES:
        raise Problem(
            f"Models of type {family!r} can't be written as GGUF",
            f"The families known here: {', '.join(FAMILIES)}.",
        )
    if family != "phi3" and getattr(config, "sliding_window", None):
        raise Problem("Attention with a sliding window can't be written", "Set use_sliding_window to false.")
    return family


def module_names(family: str, layers: int) -> dict[str, str]:
    """Transformers module → GGUF stem for every module that `layers` layers have ("lm_head" included)."""
    table = gguf.get_tensor_name_map(FAMILIES[family], layers)
    modules = ["model.embed_tokens", "model.norm", "lm_head"]
    for layer in range(layers):
        modules += [f"model.layers.{layer}.{name}" for name in (*_OWN_MODULES[family], *_SHARED_MODULES)]
    return {module: table[module] for module in modules}


def hyperparameters(config: PreTrainedConfig) -> dict[str, int | float | str]:
    """Keys (without the architecture prefix) and values that llama.cpp builds the graph from.

    Raises: Problem for a kind of rotary scaling that llama.cpp computes differently or not at all.
    """
    head = head_width(config)
    rope = dict(config.rope_parameters or {})
    values: dict[str, int | float | str] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": int(head * float(rope.get("partial_rotary_factor", 1.0))),
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if config.model_type == "phi3":
        values["attention.sliding_window"] = config.sliding_window or 0
        values["rope.scaling.original_context_length"] = _original_context(config, rope)
    return values | _scaling(config, rope)


def rope_tensors(config: PreTrainedConfig) -> dict[str, NDArray[np.float32]]:
    """Rotary frequency divisors that llama.cpp reads as tensors: Llama 3's; Phi-3's long and short ones."""
    rope = dict(config.rope_parameters or {})
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        return {
            f"rope_factors_{name}.weight": np.array(rope[f"{name}_factor"], np.float32) for name in ("long", "short")
        }
    if kind != "llama3":
        return {}
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, None)[0].double().numpy()
    plain = rope["rope_theta"] ** -(np.arange(0, 2 * len(scaled), 2) / (2 * len(scaled)))
    return {"rope_freqs.weight": (plain / scaled).astype(np.float32)}


def head_width(config: PreTrainedConfig) -> int:
    """Numbers in one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def reordered_heads(family: str, module: str, heads: int, heads_kv: int) -> int | None:
    """Into how many heads this module's rows fall if llama.cpp wants them interleaved; None: as they are.

    Llama's file format keeps the two halves of every rotary pair side by side; Transformers keeps all first
    halves, then all second ones. The other three families are stored as Transformers has them.
    """
    if family != "llama":
        return None
    return {"q_proj": heads, "k_proj": heads_kv}.get(module.rpartition(".")[2])


def interleave_halves(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of every head from (first halves, second halves) to pairs side by side; [R, d] or [R]."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def separate_halves(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """The inverse of `interleave_halves`."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _original_context(config: PreTrainedConfig, rope: Mapping[str, Any]) -> int:
    named = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(named or config.max_position_embeddings)


def _scaling(config: PreTrainedConfig, rope: Mapping[str, Any]) -> dict[str, int | float | str]:
    kind = rope.get("rope_type", "default")
    if kind == "default" or (kind == "llama3" and config.model_type == "llama"):
        return {}
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": _original_context(config, rope),
        }
    if kind == "longrope" and config.model_type == "phi3":
        original = _original_context(config, rope)
        ratio = config.max_position_embeddings / original
        factor = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
        return {"rope.scaling.attn_factor": float(rope.get("attention_factor") or factor)}
    raise Problem(
        f"Rotary scaling of type {kind!r} can't be written for {config.model_type}",
        'Set rope_type to "default" in config.json; contexts are then as long as in its first training.',
    )
