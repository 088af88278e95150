"""How fast the teacher reads, against this machine's own GEMM peak and against llama.cpp.

Prints one table. Everything is measured in one run, side by side:  python benchmarks/signals_throughput.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from rich.console import Console

from potstill.machine import bound_product_caches, fastest_dtype, freed_memory_kept, multiplication_gflops, usable_cores
from potstill.models.anatomy import body
from potstill.models.examples import Example
from potstill.models.llama import LlamaReader
from potstill.models.reading import read_states
from potstill.models.teacher import find_teacher, load_model
from potstill.recipe import SignalsSection, TeacherSection
from potstill.run import default_home
from potstill.terminal import TerminalProgress, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=12_000, help="tokens to read with each reader")
    parser.add_argument("--length", type=int, default=220, help="tokens a sequence")
    arguments = parser.parse_args()
    bound_product_caches()
    teacher = find_teacher(
        TeacherSection.model_validate({}).model, default_home(), TerminalProgress(Console(stderr=True))
    )
    random = np.random.default_rng(0)
    count = arguments.tokens // arguments.length
    examples = [Example(str(i), "", random.integers(0, 20_000, arguments.length), 1) for i in range(count)]
    rows = []
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        model = load_model(teacher.checkpoint, dtype)
        matrices = sum(p.numel() for p in body(model).layers.parameters() if p.dim() == 2)
        peak = multiplication_gflops(dtype, 1.0)
        part = examples if name == fastest_dtype() else examples[: len(examples) // 4]
        started = time.perf_counter()
        with freed_memory_kept():
            for _ in read_states(model, part, None, (), SignalsSection.model_validate({}).batch_tokens):
                pass
        rate = sum(len(e.ids) for e in part) / (time.perf_counter() - started)
        achieved = rate * 2 * matrices / 1e9
        rows.append([f"PyTorch {name}", f"{rate:.0f}", f"{achieved:.0f}", f"{peak:.0f}", f"{achieved / peak:.0%}"])
        del model
    with LlamaReader(teacher.gguf, context=arguments.length, threads=usable_cores()) as reader:
        part = examples[: max(2, len(examples) // 8)]
        started = time.perf_counter()
        for example in part:
            reader.logits(example.ids.tolist(), start=arguments.length - 1)
        rate = sum(len(e.ids) for e in part) / (time.perf_counter() - started)
        rows.append(["llama.cpp, the GGUF", f"{rate:.0f}", f"{rate * 2 * matrices / 1e9:.0f}", "", ""])
    columns = ["reader", "tokens/s", "GFLOP/s in matrices", "GEMM peak", "share of peak"]
    Console().print(table("The teacher reads", columns, rows))


if __name__ == "__main__":
    main()
