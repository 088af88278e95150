"""Which of the student's weights move, and how they get into a checkpoint and back into a plain model.

In:  a student, the recipe's [distill].
Out: the same student with its resting weights frozen, or with adapters in it; safetensors of what moves; a plain model.
Does not know: optimisers, batches, losses, run folders.
"""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.models.anatomy import body, decoder_layers
from potstill.problem import Problem, install
from potstill.recipe import DistillSection, LoraSection

__all__ = ["load_weights", "merge", "plain_copy", "prepare_student", "save_weights"]

WEIGHTS = "model.safetensors"
ADAPTER = "default"


def prepare_student(student: PreTrainedModel, section: DistillSection) -> None:
    """Freeze what rests and put the adapters in, in place: body, layers and head stay where they are.

    Frozen weights get no gradient and no optimiser state. Adapters start as the identity.

    Raises: Problem where a library is missing, or a target of the adapters is no layer of the student.
    Source: LoRA, arXiv:2106.09685; adapters on a 4-bit NF4 base, arXiv:2305.14314.
    """
    if section.trained == "all":
        return
    student.requires_grad_(False)
    if section.trained == "feed-forward":
        for layer in decoder_layers(student):
            layer.mlp.requires_grad_(True)
        return
    targets = _targets(student, section.lora)
    if section.trained == "nf4-lora":
        _quantise(student)
    _inject(student, section.lora, targets)


def save_weights(student: PreTrainedModel, folder: Path) -> None:
    """Write the weights that move (tied ones once), and nothing else, to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: weight.detach().contiguous() for name, weight in _moving(student).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def load_weights(student: PreTrainedModel, folder: Path) -> None:
    """Put `save_weights`'s file back into a student prepared in the same way. Raises: Problem where it does not fit."""
    moving, path = _moving(student), folder / WEIGHTS
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise Problem(f"{path}: the checkpoint is damaged ({error})", _DELETE) from None
    shapes = {name: weight.shape for name, weight in state.items()}
    if shapes != {name: weight.shape for name, weight in moving.items()}:
        raise Problem(f"{path}: holds other weights than those that this recipe trains", _DELETE)
    with torch.no_grad():
        for name, weight in moving.items():
            weight.copy_(state[name])


_DELETE = "Delete its folder; the one before is used."


def merge(student: PreTrainedModel) -> None:
    """Back to a plain model, in place, with the names it had: W + alpha / rank · BA, and 4-bit weights as float32.

    New tensors take the place of the old ones, which may be shared with another model.
    """
    if not hasattr(student, "peft_config"):
        return
    from peft.tuners.lora import LoraLayer

    adapted = [(name, module) for name, module in student.named_modules() if isinstance(module, LoraLayer)]
    with torch.no_grad():
        for name, module in adapted:
            adapter: Any = module
            base, added = adapter.get_base_layer(), adapter.get_delta_weight(ADAPTER)
            student.set_submodule(name, _linear(_full_weight(base) + added, base.bias))
        for name, rest in _linear_layers(student).items():
            if _is_quantised(rest):
                student.set_submodule(name, _linear(_full_weight(rest), rest.bias))
    del student.peft_config


def plain_copy(student: PreTrainedModel) -> PreTrainedModel:
    """A merged, frozen model with the student's weights of this moment, in evaluation mode; the student stays as it is.

    Weights that no adapter changes are shared with the student, not copied: use it before the next step.
    """
    shared: dict[int, Any] = {}
    for weight in student.parameters():
        shared[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False) if weight.requires_grad else weight
    other: PreTrainedModel = copy.deepcopy(student, shared)
    for name in ("forward", "_original_forward"):
        # Accelerate wraps the forward of a model in training; the wrapper would call the student, not its copy.
        other.__dict__.pop(name, None)
    merge(other)
    other.requires_grad_(False).train(False)
    return other


def _moving(student: PreTrainedModel) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in student.named_parameters() if weight.requires_grad}


def _linear_layers(student: PreTrainedModel) -> dict[str, nn.Linear]:
    """Name → linear layer of the body: the head and the embedding are never adapted nor quantised."""
    inside = body(student)
    prefix = next(name for name, module in student.named_modules() if module is inside)
    return {f"{prefix}.{name}": module for name, module in inside.named_modules() if isinstance(module, nn.Linear)}


def _targets(student: PreTrainedModel, section: LoraSection) -> list[str]:
    """Full names of the layers that get an adapter. Raises: Problem for a target that is none of them."""
    names = list(_linear_layers(student))
    if section.targets is None:
        return names
    ends = sorted({name.rpartition(".")[2] for name in names})
    for target in section.targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise Problem(
                f"distill.lora.targets names {target!r}, which is no linear layer of this student's body",
                f"It has {', '.join(ends)}. Without `targets` all of them get an adapter.",
            )
    return [name for name in names if name.endswith(tuple(f".{target}" for target in section.targets))]


def _inject(student: PreTrainedModel, section: LoraSection, targets: list[str]) -> None:
    peft = _optional("peft")
    settings = peft.LoraConfig(r=section.rank, lora_alpha=section.alpha, target_modules=targets, lora_dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peft.inject_adapter_in_model(settings, student, ADAPTER)


def _quantise(student: PreTrainedModel) -> None:
    """The linear layers of the body in 4-bit NF4, their scales in 8 bits: about 4.1 bits a weight in memory."""
    library = _optional("bitsandbytes").nn
    for name, old in _linear_layers(student).items():
        new = library.Linear4bit(
            old.in_features,
            old.out_features,
            bias=False,
            compute_dtype=torch.float32,
            quant_type="nf4",
            device="meta",
        )
        weight = library.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4", module=new)
        new.weight, new.bias = weight.to(old.weight.device), old.bias
        # In evaluation mode it would repack the weights for the processor, with coarser scales, and not quite back.
        new.support_avx512bf16_for_cpu = False
        student.set_submodule(name, new)


def _is_quantised(layer: nn.Linear) -> bool:
    return getattr(layer.weight, "quant_state", None) is not None


def _full_weight(layer: nn.Linear) -> Tensor:
    """[out, in] float, whatever the layer holds it in."""
    if not _is_quantised(layer):
        return layer.weight.detach()
    weight: Any = layer.weight
    full: Tensor = _optional("bitsandbytes").functional.dequantize_4bit(weight.data, weight.quant_state)
    return full


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = bias  # type: ignore[assignment]
    return layer


def _optional(name: str) -> Any:
    """A library that only adapters need. Raises: Problem where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Problem(
            f"distill.trained asks for adapters, and {name} cannot be imported ({error})",
            install("lora"),
        ) from None
