"""Results as Markdown tables, every number with its spread over the rounds.

In:  results by part and round, the work that a token needs.
Out: text. A contestant that could not be measured stands there with the reason.
Does not know: how anything was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from potstill.run import describe_machine, library_versions

from .conducting import Result
from .contests import Choice, step_seconds, tokens_per_second
from .environments import REQUIREMENTS
from .material import Work

Rounds = Sequence[Sequence[Result]]
"""A part's results, round by round, the contestants in the same order in each."""


@dataclass(frozen=True)
class Limits:
    """What the machine could do in the same rounds: 10⁹ operations and 10⁹ bytes a second."""

    products: Sequence[float]
    copied: Sequence[float]

    @classmethod
    def of(cls, rounds: Rounds, dtype: str) -> Limits:
        """From the yardstick's results."""
        said = [results[0].said["limits"] for results in rounds]
        return cls([one[dtype] for one in said], [one["copied_gb_s"] for one in said])


def heading(rounds: Rounds, choice: Choice, threads: int) -> list[str]:
    """Machine and limits: they stand over every table."""
    limits = Limits.of(rounds, choice.dtype)
    machine = rounds[0][0].said["machine"]
    return [
        f"{machine['processor']} ({machine['units']}), {describe_machine()}; threads of everybody: {threads}; rounds: "
        f"{len(rounds)}, everybody once in each. Numbers: median (lowest–highest). Limits in the same rounds: "
        f"{choice.dtype} products {spread(limits.products, 0)} GFLOP/s, memory copied "
        f"{spread(limits.copied, 1)} GB/s.",
        "",
    ]


def training(rounds: Rounds, work: Work, limits: Limits, reading: Sequence[Result]) -> list[str]:
    """Speed and memory of every trainer, to the same number of steps; `reading`: what is kept for some of them."""
    disk = {result.name: result.said["disk"]["bytes_per_token"] for result in reading if "disk" in result.said}

    def cells(results: Sequence[Result]) -> list[str]:
        rates = [tokens_per_second(one) for one in results]
        shares = [100 * rate * work.training / 1e9 / peak for rate, peak in zip(rates, limits.products, strict=True)]
        return [
            spread(rates, 0),
            spread([step_seconds(one) for one in results], 2),
            f"{spread(shares, 0)} %",
            spread([one.said["done"]["peak_mb"] for one in results], 0),
            f"{disk[results[0].name]:.0f}" if results[0].name in disk else "0",
        ]

    columns = ["tokens/s", "s a step", "of the product limit", "peak MB", "bytes a token on disk"]
    steps = max((len(one.steps) for results in rounds for one in results), default=0)
    title = f"Training, {steps} steps on the same batches, the first not counted"
    note = (
        "Of the product limit: the student's own products (6 operations a weight and token, its head at answer tokens "
        "alone); a live teacher's reading counts as nothing gained."
    )
    return [*table(title, "trainer", columns, rounds, cells), note, *settings(rounds), ""]


def time(rounds: Rounds, minutes: float) -> list[str]:
    """What the same time brought."""

    def cells(results: Sequence[Result]) -> list[str]:
        found = [one.said["fidelity"] for one in results]
        steps = spread([len(one.steps) for one in results], 0)
        return [
            steps if results[0].steps else "",
            spread([one["kl"] for one in found], 3),
            f"{spread([100 * one['top1'] for one in found], 1)} %",
            spread([one.steps[-1][0] / 60 for one in results], 1) if results[0].steps else "",
        ]

    columns = ["steps", "held-out KL, nats", "top-1", "minutes"]
    title = f"Held-out answers after {minutes:g} minutes of training"
    counts = {one.said["fidelity"].get("positions") for results in rounds for one in results if not one.failed}
    note = f"Judged by one program, over {'/'.join(map(str, counts))} answer tokens. Loading models is not counted."
    return [*table(title, "trainer", columns, rounds, cells), note, *settings(rounds), ""]


def reading(rounds: Rounds, work: Work, limits: Limits) -> list[str]:
    """How fast the teacher reads, what is kept included."""

    def cells(results: Sequence[Result]) -> list[str]:
        rates = [one.steps[-1][1] / one.steps[-1][0] for one in results]
        shares = [100 * rate * work.reading / 1e9 / peak for rate, peak in zip(rates, limits.products, strict=True)]
        return [
            spread(rates, 0),
            f"{spread(shares, 0)} %",
            spread([one.said["done"]["peak_mb"] for one in results], 0),
            f"{results[0].said['disk']['bytes_per_token']:.0f}",
        ]

    columns = ["tokens/s", "of the product limit", "peak MB", "bytes a token on disk"]
    return [*table("The teacher reads", "reader", columns, rounds, cells), *settings(rounds), ""]


def writing(rounds: Rounds, limits: Limits, sizes: Mapping[str, int]) -> list[str]:
    """How fast a student writes; `sizes`: bytes of weights that each writer reads for every token."""

    def cells(results: Sequence[Result]) -> list[str]:
        said = [one.said["written"] for one in results]
        rates = [median(one["decode_tok_s"]) for one in said]
        size = sizes[results[0].name]
        shares = [100 * rate * size / 1e9 / copied for rate, copied in zip(rates, limits.copied, strict=True)]
        return [
            spread(rates, 1),
            spread([median(one["first_token_ms"]) for one in said], 0),
            spread([one["load_s"] for one in said], 2),
            spread([one["peak_mb"] for one in said], 0),
            f"{size / 1e6:.0f}",
            f"{spread(shares, 0)} %",
        ]

    columns = ["tokens/s", "first token, ms", "load, s", "peak MB", "weights, MB", "of the memory limit"]
    note = "Of the memory limit: bytes of weights a second, against bytes read and written while copying."
    return [*table("The student writes", "writer", columns, rounds, cells), note, *settings(rounds), ""]


def starting(rounds: Rounds) -> list[str]:
    """Seconds from nothing."""

    def cells(results: Sequence[Result]) -> list[str]:
        return [spread([seconds for one in results for seconds, _ in one.steps], 3)]

    known = library_versions()
    ours = ", ".join(f"{name} {known[name]}" for name in ("potstill", "xllamacpp"))
    note = f"{ours}, {', '.join(REQUIREMENTS['soup'])}"
    return [*table("Start-up, files in the system's cache", "program", ["seconds"], rounds, cells), note, ""]


def table(
    title: str, first: str, columns: Sequence[str], rounds: Rounds, cells: Callable[[Sequence[Result]], list[str]]
) -> list[str]:
    """One row a contestant; where one failed in any round, the reason instead of its numbers."""
    lines = [f"| {first} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for results in zip(*rounds, strict=True):
        reasons = [one.failed for one in results if one.failed]
        row = [f"not measured: {_inline(reasons[0])}", *[""] * (len(columns) - 1)] if reasons else cells(results)
        lines.append(f"| {results[0].name} | {' | '.join(row)} |")
    return [f"**{title}**", "", *lines, ""]


def settings(rounds: Rounds) -> list[str]:
    """Versions and settings of every contestant, as its own process said them."""
    lines = []
    for one in rounds[0]:
        told = {**one.said.get("versions", {}), **one.said.get("settings", {})}
        if told and not one.failed:
            lines.append(f"- {one.name}: {', '.join(f'{key} {value}' for key, value in told.items())}")
    return ["", *lines] if lines else []


def spread(values: Iterable[float], digits: int) -> str:
    """`median (lowest–highest)`; the value alone where there is one."""
    known = sorted(values)
    middle = f"{median(known):.{digits}f}"
    return middle if len(known) == 1 else f"{middle} ({known[0]:.{digits}f}–{known[-1]:.{digits}f})"


def _inline(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
