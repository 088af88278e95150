"""What goes into each matrix of a model while it reads.

In:  a Transformers causal model, somebody who listens.
Out: the name of each linear layer's weight with its inputs, as they come.
Does not know: what is measured on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def listening(model: PreTrainedModel, add: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `add` with the name of every linear layer's weight and its inputs [B, T, d]; not with the head's."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: add(f"{name}.weight", inputs[0])

    head = model.get_output_embeddings()
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module is not head:
                stack.callback(module.register_forward_pre_hook(hook(name)).remove)
        yield
