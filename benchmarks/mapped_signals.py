"""Does training from a large signal store keep its memory? A store of any size, a tiny student, and what is resident.

    python benchmarks/mapped_signals.py --gb 1
    python benchmarks/mapped_signals.py --gb 10 --steps 400

The store is one shard of random signals (width 896, int8) copied as often as it takes; it is removed afterwards.
Anonymous memory is the process's own, file-backed memory is pages of libraries and of what is mapped of the store;
neither may grow with what has been read. Linux only.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measuring import alone

from potstill.machine import bound_product_caches

WIDTH, VOCABULARY = 896, 512
ANSWERS, LENGTH, START = 40, 217, 62
"""Of a shard: as many answers as the recipe's default, as long as the golden ones."""
SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the store, 10⁹ bytes")
    parser.add_argument("--steps", type=int, help="training steps; as many as read the whole store, if not given")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--place", type=Path, help="folder with enough room (the system's own for temporary files)")
    given = parser.parse_args()
    bound_product_caches()
    with TemporaryDirectory(dir=given.place) as folder:
        # In a process of its own, so that no memory it gave back hides what opening the store takes.
        alone(make_store, Path(folder), given.gb * 1e9)
        print("\n".join(train(Path(folder), given.batch_tokens, given.steps)))


def make_store(folder: Path, wanted: float) -> None:
    """Copies of one shard, not links: every copy has pages of its own."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from potstill.models.examples import Example
    from potstill.run import write_json
    from potstill.signals.formats import encode_states
    from potstill.signals.store import HEAD, INDEX, StoreFormat, write_shard

    random = np.random.default_rng(0)
    examples = [Example(f"made-{i}", "made", random.integers(0, VOCABULARY, LENGTH), START) for i in range(ANSWERS)]
    form = StoreFormat("hidden", "int8", 128, WIDTH, VOCABULARY, (), (), "random")
    signals = [
        encode_states("hidden", torch.randn(example.rows, WIDTH), form.precision, form.group) for example in examples
    ]
    first = folder / "train-00000.safetensors"
    write_shard(first, form, examples, signals)
    count = max(1, round(wanted / first.stat().st_size))
    names = [f"train-{number:05d}.safetensors" for number in range(count)]
    for name in names[1:]:
        shutil.copyfile(first, folder / name)
    save_file({"head": (0.02 * torch.randn(VOCABULARY, WIDTH)).bfloat16()}, folder / HEAD)
    write_json(folder / INDEX, {"formats": {"train": vars(form)}, "shards": {"train": names}})


def resident() -> tuple[float, float]:
    """MB of this process: anonymous, file-backed."""
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    everything, anonymous = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("Rss", "Anonymous"))
    return anonymous, everything - anonymous


def train(folder: Path, batch_tokens: int, steps: int | None) -> list[str]:
    """Open the store, train, and say what was resident on the way."""
    from potstill.signals.store import SignalStore

    size = sum(shard.stat().st_size for shard in folder.glob("train-*.safetensors"))
    before, began = resident()[0], time.process_time()
    store = SignalStore(folder, "train")
    opening, taken = time.process_time() - began, resident()[0] - before
    lines = [
        f"{size / 1e9:.2f} GB, {len(store):,} answers, {store.rows:,} rows. Opening it takes of each answer "
        f"{1e6 * opening / len(store):.0f} µs CPU and {1e6 * taken / len(store):,.0f} bytes, {taken:.0f} MB in all.",
        "",
        "| step | read, GB | anonymous, MB | file-backed, MB | s a step |",
        "|---|---|---|---|---|",
    ]
    samples: list[tuple[float, float, float]] = []
    run_trainer(store, folder, batch_tokens, steps, lambda: samples.append((time.perf_counter(), *resident())))
    per_step = size / (len(store) * LENGTH / batch_tokens)
    for step in sorted({round(share * (len(samples) - 1) / SHOWN) for share in range(SHOWN + 1)}):
        moment, anonymous, mapped = samples[step]
        pace = (moment - samples[0][0]) / step if step else 0.0
        read = min(size, per_step * (step + 1)) / 1e9
        lines.append(f"| {step + 1} | {read:.2f} | {anonymous:.0f} | {mapped:.0f} | {pace:.2f} |")
    return lines


def run_trainer(store: Any, folder: Path, batch_tokens: int, steps: int | None, after_step: Callable[[], None]) -> None:
    """Plain forward KL on a student of two layers."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    from potstill.distill import training_arguments
    from potstill.distill.batches import LengthBatches
    from potstill.distill.schedule import StepCount
    from potstill.distill.trainer import DistillTrainer, Pace
    from potstill.recipe import Recipe

    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    student = AutoModelForCausalLM.from_config(
        Qwen2Config(vocab_size=VOCABULARY, num_key_value_heads=2, tie_word_embeddings=True, **shape)
    )
    batches = len(LengthBatches([len(example.ids) for example in store.examples], batch_tokens, 0))
    section = {"batch_tokens": batch_tokens, "epochs": (steps or batches) / batches, "precision": "float32"}
    recipe = Recipe.model_validate({"name": "mapped", "distill": section})
    pace = Pace(StepCount(1), 1e9, lambda *_: after_step())
    DistillTrainer(student, store, recipe.distill, training_arguments(recipe, folder, 1.0), pace, recipe.seed).train()


if __name__ == "__main__":
    main()
