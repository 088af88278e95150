"""How fast the student trains, against this machine's own GEMM peak.

Builds a student of the recipe's shape with random weights (speed does not depend on them) and random signals, trains a
few steps in each dtype with the peak measured after every one, prints one table, and two of what attention and a norm
alone cost: python benchmarks/train_throughput.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from potstill.distill import training_arguments
from potstill.distill.schedule import StepCount
from potstill.distill.trainer import DistillTrainer, Pace
from potstill.machine import bound_product_caches, freed_memory_kept, multiplication_gflops, peak_memory_mb
from potstill.models.causal import causal_attention
from potstill.models.examples import Example
from potstill.models.norms import rms_norm
from potstill.recipe import Recipe, load_recipe
from potstill.run import write_json
from potstill.signals.formats import encode_states
from potstill.signals.store import HEAD, SignalStore, StoreFormat, write_shard
from potstill.terminal import table

WIDTH, VOCABULARY = 896, 32768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--ffn", type=int, default=1184)
    parser.add_argument("--steps", type=int, default=6, help="steps measured in each dtype, after one to warm up")
    arguments = parser.parse_args()
    recipe = load_recipe(Path(__file__).parent.parent / "recipes" / "demo.toml")
    rows = []
    bound_product_caches()
    with freed_memory_kept(), TemporaryDirectory() as folder:
        store = random_store(Path(folder), recipe.distill.batch_tokens, arguments.steps + 1)
        for dtype in ("float32", "bfloat16"):
            rows.append(measure(recipe, store, Path(folder), dtype, arguments.layers, arguments.ffn))
    columns = ["dtype", "tokens/s", "GFLOP/s", "GEMM peak", "share of peak", "peak memory so far, MB"]
    Console().print(table(f"A {arguments.layers} × {arguments.ffn} student learns", columns, rows))
    shapes = [(6, 160), (3, 320), (2, 512)]
    columns = ["sequences", "PyTorch's, ms", "ours, ms", "ratio"]
    Console().print(table("Gradient of a layer's attention", columns, [attention(*shape) for shape in shapes]))
    Console().print(table("A norm and its gradient", columns, [norm(*shape) for shape in shapes]))


def measure(recipe: Recipe, store: SignalStore, folder: Path, dtype: str, layers: int, ffn: int) -> list[str]:
    student = AutoModelForCausalLM.from_config(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=ffn,
            num_hidden_layers=layers,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )
    matrices = {n: w for n, w in student.named_parameters() if w.dim() == 2 and "layers." in n}
    section = recipe.distill.model_copy(update={"budget_minutes": None, "epochs": 1.0})
    arguments = training_arguments(recipe.model_copy(update={"distill": section}), folder, 1.0)
    arguments = replace(arguments, bf16=dtype == "bfloat16")
    seconds, peaks = [], []
    started = 0.0

    def report(*_: object) -> None:
        nonlocal started
        seconds.append(time.perf_counter() - started)
        peaks.append(multiplication_gflops(getattr(torch, dtype), 0.2))  # a shared machine is not as fast every second
        started = time.perf_counter()

    pace = Pace(StepCount(1), 1e9, report)
    # What they hold makes no difference to the time either.
    curvature = {n: torch.eye(w.shape[1], dtype=getattr(torch, dtype)) for n, w in matrices.items()}
    DistillTrainer(student, store, section, arguments, pace, 0, curvature=curvature).train()
    examples = store.examples
    share = (len(seconds) - 1) / len(seconds)
    tokens = sum(len(e.ids) for e in examples) * share
    rows = store.rows * share
    # Three products for every weight of the body (forward, two backward); four for the head beside the teacher's one.
    # The optimiser's own, with the inverses, are not counted: they are a means.
    operations = tokens * 6 * sum(w.numel() for w in matrices.values()) + rows * (6 + 2) * WIDTH * VOCABULARY
    measured, peak = sum(seconds[1:]), statistics.median(peaks)
    achieved = operations / measured / 1e9
    memory = f"{peak_memory_mb():.0f}"
    return [dtype, f"{tokens / measured:.0f}", f"{achieved:.0f}", f"{peak:.0f}", f"{achieved / peak:.0%}", memory]


def attention(answers: int, tokens: int) -> list[str]:
    sizes = [(answers, heads, tokens, 64) for heads in (14, 2, 2)]
    inputs = [torch.randn(size, dtype=torch.bfloat16).requires_grad_() for size in sizes]
    fused = partial(functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    return beside((answers, tokens), fused, partial(causal_attention, scale=64**-0.5), inputs, forward=False)


def norm(answers: int, tokens: int) -> list[str]:
    theirs = Qwen2RMSNorm(WIDTH).bfloat16()
    states = torch.randn(answers, tokens, WIDTH, dtype=torch.bfloat16).requires_grad_()
    ours = partial(rms_norm, epsilon=theirs.variance_epsilon)
    return beside((answers, tokens), lambda states, _: theirs(states), ours, [states, theirs.weight], forward=True)


def beside(
    shape: tuple[int, int],
    first: Callable[..., Tensor],
    second: Callable[..., Tensor],
    inputs: list[Tensor],
    forward: bool,
    rounds: int = 9,
) -> list[str]:
    """Medians of a backward pass, or of both, taken in turn; in bfloat16."""
    direction = torch.randn(inputs[0].shape, dtype=torch.bfloat16)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for ours, compute in ((False, first), (True, second)):
            begun = time.perf_counter()
            seen = compute(*inputs)
            started = begun if forward else time.perf_counter()
            torch.autograd.grad(seen, inputs, direction)
            seconds[ours].append(time.perf_counter() - started)
    theirs, own = (1000 * statistics.median(seconds[ours][1:]) for ours in (False, True))
    return [f"{shape[0]} × {shape[1]}", f"{theirs:.1f}", f"{own:.1f}", f"{theirs / own:.2f}"]


def random_store(folder: Path, batch_tokens: int, batches: int) -> SignalStore:
    random = np.random.default_rng(0)
    length = 250
    count = batches * max(1, batch_tokens // length)
    examples = [Example(str(i), "", random.integers(0, VOCABULARY, length), 50) for i in range(count)]
    form = StoreFormat("hidden", "int8", 128, WIDTH, VOCABULARY, (), (), "random")
    signals = [encode_states("hidden", torch.randn(e.rows, WIDTH), "int8", 128) for e in examples]
    write_shard(folder / "train-00000.safetensors", form, examples, signals)
    from safetensors.torch import save_file

    save_file({"head": (0.02 * torch.randn(VOCABULARY, WIDTH)).bfloat16()}, folder / HEAD)
    index = {"formats": {"train": vars(form)}, "shards": {"train": ["train-00000.safetensors"]}}
    write_json(folder / "index.json", index)
    return SignalStore(folder, "train")


if __name__ == "__main__":
    main()
