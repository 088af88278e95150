"""Decode speed of students beside their teacher, at every thread setting, in one alternating run.

In:  a teacher GGUF and student GGUFs.
Out: a table: load time, first token, tokens a second, peak memory, file size; ratios to the teacher.
Does not know: recipes, runs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections import Counter
from pathlib import Path

from potstill.machine import usable_cores
from potstill.models.engine import Messages, Threads
from potstill.models.speed import SpeedSample, alternate, candidate_threads, is_idle
from potstill.problem import Problem
from potstill.progress import Silent

QUESTIONS: list[Messages] = [
    [{"role": "user", "content": text}]
    for text in (
        "请用三句话介绍一下怎样安排周末的家务，要具体一些。",
        "帮我写一条微信，告诉同事明天上午的会改到下午三点。",
        "用 Python 写一个函数，统计一段文字里每个词出现的次数。",
        "阳台上的薄荷叶子发黄了，可能是什么原因？",
    )
]

DESCRIPTION = """\
How fast does a student write, compared with its teacher?

Every number comes from a process of its own: load the model, warm it up with another text, answer the
questions greedily. Models and thread settings take turns, round by round, so that a machine that gets slower
gets slower for all of them. Shown is the median.
"""
EXAMPLE = """\
example:
  python benchmarks/decode.py teacher.gguf runs/demo/export/*.gguf --rounds 3

Leave the machine alone while it runs: with active waiting, a second busy program makes any model crawl. The
setting is measured only on an idle machine, or where --active asks for it. "x teacher" compares each model's
fastest setting with the teacher's fastest: below 1 is quicker for the first token, above 1 for decoding.
"""


def main() -> int:
    """Measure, print the table; 1 where a file is bad."""
    options = parse()
    idle = options.active or is_idle()
    if not idle:
        print("This machine is busy: active waiting is left out (--active measures it all the same).\n")
    files = [options.teacher, *options.students]
    alike = Counter(path.name for path in files)
    models = {path.name if alike[path.name] == 1 else str(path): path for path in files}
    settings = {describe(threads): threads for threads in candidate_threads(options.cores, idle=idle)}
    pairs = itertools.product(models, settings)
    plan = {f"{name} | {text}": (models[name], settings[text]) for name, text in pairs}
    try:
        samples = alternate(
            plan,
            QUESTIONS,
            rounds=options.rounds,
            new_tokens=options.tokens,
            context=256 + options.tokens,
            progress=Silent(),
        )
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    print_table(models, settings, samples)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", type=Path, help="GGUF that the others are compared with")
    parser.add_argument("students", type=Path, nargs="*", help="GGUFs to compare")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured (3)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens written for each question (64)")
    parser.add_argument("--cores", type=int, default=usable_cores(), help="cores to use (all)")
    parser.add_argument("--active", action="store_true", help="measure active waiting on a busy machine too")
    return parser.parse_args()


def describe(threads: Threads) -> str:
    """A setting in a few characters: threads that decode / that prefill, and how they wait."""
    return f"{threads.decode}/{threads.prefill} {threads.waiting.lower()}"


def medians(samples: list[SpeedSample]) -> tuple[float, float, float, float]:
    """Seconds to load, milliseconds to the first token, tokens a second, megabytes."""
    return (
        statistics.median(sample.load_s for sample in samples),
        statistics.median(number for sample in samples for number in sample.first_token_ms),
        statistics.median(number for sample in samples for number in sample.decode_tok_s),
        statistics.median(sample.peak_mb for sample in samples),
    )


def print_table(
    models: dict[str, Path],
    settings: dict[str, Threads],
    samples: dict[str, list[SpeedSample]],
) -> None:
    """One row for every model and setting, then the ratios of the fastest settings to the teacher's."""
    print(f"{'model':28} {'file MB':>8} {'threads':>12} {'load s':>7} {'first ms':>9} {'tok/s':>7} {'peak MB':>8}")
    fastest: dict[str, tuple[float, float]] = {}
    for name, path in models.items():
        rows = {text: medians(samples[f"{name} | {text}"]) for text in settings}
        for text, (load_s, first_ms, rate, peak_mb) in rows.items():
            size_mb = path.stat().st_size / 1e6
            print(f"{name:28} {size_mb:8.1f} {text:>12} {load_s:7.2f} {first_ms:9.0f} {rate:7.1f} {peak_mb:8.0f}")
        best = max(rows.values(), key=lambda row: row[2])
        fastest[name] = best[1], best[2]
    (teacher_first, teacher_rate), *_ = fastest.values()
    print(f"\n{'at the fastest setting':28} {'first token x teacher':>22} {'decode x teacher':>17}")
    for name, (first, rate) in list(fastest.items())[1:]:
        print(f"{name:28} {first / teacher_first:22.2f} {rate / teacher_rate:17.2f}")


if __name__ == "__main__":
    sys.exit(main())
