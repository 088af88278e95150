"""Proof that a GGUF is the model it was written from.

In:  the Transformers folder, an adapter or none, the GGUF, a few sequences, some hard text.
Out: how far apart their logits are; or a Problem.
Does not know: runs, recipes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from potstill.losses import forward_kl
from potstill.machine import usable_cores
from potstill.models.examples import Example
from potstill.models.llama import LlamaReader
from potstill.models.lora import Lora, merge_lora
from potstill.models.teacher import load_model, load_tokenizer
from potstill.problem import Problem

HARD_TEXTS = (
    "你好，世界！今天是 2024 年 3 月 5 日，气温 -3.5℃。",
    "def f(x: int) -> str:\n\treturn f'{x:>4}'  # 注释\n\n\n    pass\r\n",
    "  leading,   double  spaces\t\ttabs and trailing   ",
    "🙂👨‍👩‍👧‍👦 e\u0301 \u200b Ωμέγα ﷽ 한국어 \x00\x7f",
    "<|im_start|>user\n问<|im_end|>\n<|im_start|>assistant\n",
)
READ = 3
"""Sequences whose logits are compared: a wrong key or permutation shows in the first."""


@dataclass(frozen=True)
class Difference:
    """Of a file to the student it was written from. `largest`: of any logit. `kl`: mean over positions, nats."""

    largest: float
    kl: float


@torch.inference_mode()
def prove(
    checkpoint: Path, gguf: Path, examples: Sequence[Example], tolerance: float | None, lora: Lora | None = None
) -> Difference:
    """Compare token ids on hard text and logits on the first examples.

    Args:
        tolerance: largest mean KL allowed, nats; None for quantised files, which are meant to differ. A wrong key or
            permutation costs tenths of a nat. Logits themselves are no measure: llama.cpp rounds the activations of
            F16 products, and large activations move single logits that nobody would ever draw.
        lora: merged into the student first, where `gguf` is that of the adapter.

    Raises: Problem where ids differ or the tolerance is exceeded: the file must not be shipped.
    """
    tokenizer = load_tokenizer(checkpoint)
    model = load_model(checkpoint, torch.float32)
    if lora is not None:
        merge_lora(model, lora)
    largest, divergences = 0.0, []
    longest = max(len(example.ids) for example in examples[:READ])
    # llama.cpp's float16 cache alone moves logits by 0.05: the file is compared, not the cache.
    with LlamaReader(gguf, context=longest + 1, threads=usable_cores(), exact=True) as reader:
        for text in HARD_TEXTS:
            expected = tokenizer(text, add_special_tokens=False)["input_ids"]
            if reader.tokenize(text) != expected:
                raise Problem(f"{gguf.name}: llama.cpp splits {text!r} otherwise than the student", _REMEDY)
        for example in examples[:READ]:
            ours = model(torch.from_numpy(example.ids)[None]).logits[0]
            theirs = torch.from_numpy(reader.logits(example.ids.tolist()))
            largest = max(largest, float((ours - theirs).abs().max()))
            divergences.append(forward_kl(ours, theirs, 1.0))
    found = Difference(largest, float(torch.cat(divergences).mean()))
    if not math.isfinite(found.kl):  # `max` above passes over what is no number
        raise Problem(f"{gguf.name}: llama.cpp makes numbers of it that are none", _REMEDY)
    if tolerance is not None and found.kl > tolerance:
        raise Problem(f"{gguf.name}: {found.kl:.2g} nats from its student, {tolerance:.2g} are allowed", _REMEDY)
    return found


_REMEDY = "The file is not fit to ship; report this with the recipe, and try another xllamacpp version."
