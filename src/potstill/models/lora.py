"""A low-rank adapter on disk, as PEFT keeps it, and what it adds to a model.

In:  the adapter's two small matrices for each layer it changes; or a folder that PEFT or this module wrote.
Out: `adapter_model.safetensors` with `adapter_config.json`; a model with the adapter merged in.
Does not know: how it was trained, GGUF. PEFT itself is not needed.

An adapter adds alpha / rank · B A to a weight (Hu et al. 2021, arXiv:2106.09685).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from potstill.problem import Problem

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Lora:
    """One adapter.

    Args:
        alpha: the sum is scaled by alpha / rank. layers: module of a Transformers model → A [rank, in], B [out, rank].
    """

    alpha: float
    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def rank(self) -> int:
        """Rows of every A."""
        return len(next(iter(self.layers.values()))[0])


def write_lora(lora: Lora, folder: Path, fingerprint: str) -> None:
    """Write an adapter in float16, so that PEFT loads the folder onto the student."""
    tensors = {}
    for module, (down, up) in lora.layers.items():
        tensors[f"{_PREFIX}{module}{_DOWN}"] = down.to(torch.float16).contiguous()
        tensors[f"{_PREFIX}{module}{_UP}"] = up.to(torch.float16).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "potstill.fingerprint": fingerprint})
    config = {
        **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "lora_dropout": 0.0},
        **{"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": list(lora.layers)},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def read_lora(folder: Path) -> Lora:
    """The adapter that lies in `folder`, in float32. Raises: Problem where it is missing or damaged."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        names = [name.removeprefix(_PREFIX).removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)]
        pairs = {one: (tensors[f"{_PREFIX}{one}{_DOWN}"], tensors[f"{_PREFIX}{one}{_UP}"]) for one in names}
        alpha = float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise Problem(f"{folder}: no adapter can be read from it ({error})", "Run `distill` again.") from None
    if not pairs:
        raise Problem(f"{folder}: the adapter changes nothing", "Run `distill` again.")
    return Lora(alpha, {name: (down.float(), up.float()) for name, (down, up) in pairs.items()})


@torch.no_grad()
def merge_lora(model: PreTrainedModel, lora: Lora) -> None:
    """Add the adapter to the model's weights, in place."""
    for module, (down, up) in lora.layers.items():
        weight = model.get_parameter(f"{module}.weight")
        weight.add_(lora.alpha / lora.rank * (up @ down).to(weight.dtype))
