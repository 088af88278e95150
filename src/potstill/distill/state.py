"""Optimiser and random state without pickle.

In:  an optimiser; tensors and numbers of its state.
Out: one safetensors file that holds them, and the state back.
Does not know: the Trainer, models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from potstill.problem import Problem

EXTRA = "extra."


def save_state(optimiser: torch.optim.Optimizer, extra: Mapping[str, Tensor], path: Path) -> None:
    """Write moments, step counts, group settings, the random generators' states, and `extra` tensors."""
    state = optimiser.state_dict()
    tensors = {
        f"{number}.{name}": value.contiguous()
        for number, entries in state["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }
    tensors |= {EXTRA + name: value.detach().contiguous() for name, value in extra.items()}
    tensors["random.torch"] = torch.random.get_rng_state()
    version, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state(legacy=True)
    settings = {
        "groups": json.dumps(state["param_groups"]),
        "random.python": json.dumps([version, list(words), gauss]),
        "random.numpy": json.dumps([[int(key) for key in keys], [float(part) for part in rest]]),
    }
    save_file(tensors, path, metadata=settings)


def load_state(optimiser: torch.optim.Optimizer, path: Path) -> dict[str, Tensor]:
    """Put `save_state`'s file back; returns the extra tensors. Raises: Problem where it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            settings = file.metadata()
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except (OSError, SafetensorError) as error:
        raise Problem(
            f"{path}: the checkpoint is damaged ({error})", "Delete its folder; the one before is used."
        ) from None
    torch.random.set_rng_state(tensors.pop("random.torch"))
    version, words, gauss = json.loads(settings["random.python"])
    random.setstate((version, tuple(words), gauss))
    keys, (position, has_gauss, cached) = json.loads(settings["random.numpy"])
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    extra = {name.removeprefix(EXTRA): tensors.pop(name) for name in list(tensors) if name.startswith(EXTRA)}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, entry = name.split(".", 1)
        state.setdefault(int(number), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": json.loads(settings["groups"])})
    return extra
