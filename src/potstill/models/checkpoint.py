"""A student as an ordinary Transformers folder that says what made it.

In:  a model, the folder of its tokenizer, a fingerprint.
Out: config.json, model.safetensors with the fingerprint in its header, tokenizer files.
Does not know: runs, stages.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from potstill.problem import Problem

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")  # hidden, so that what a kill leaves is no part of a stage
    save_file(dict(tensors), temporary, metadata=dict(header) if header else None)
    temporary.replace(path)


def save_checkpoint(
    model: PreTrainedModel, tokenizer: Path, folder: Path, dtype: torch.dtype, fingerprint: str
) -> None:
    """Write `folder` so that AutoModelForCausalLM and AutoTokenizer load it. Tied heads are written once."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to(dtype).contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    header = {"format": "pt", "potstill.fingerprint": fingerprint}
    write_tensors(folder / "model.safetensors", state, header)
    config = type(model.config).from_dict(model.config.to_dict())
    config.dtype, config.architectures = str(dtype).removeprefix("torch."), [type(model).__name__]
    config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    copy_tokenizer(tokenizer, folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy what of a tokenizer there is in `source`."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def read_header(folder: Path) -> Mapping[str, str]:
    """Metadata of a checkpoint's safetensors. Raises: Problem where it is missing or damaged."""
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise Problem(f"{path}: cannot be read ({error})", "Run the stage that writes it again.") from None
