"""The tables of docs/scale.md, so that no number on that page is anybody's memory.

In:  the assumptions of `hardware`, the arithmetic of `costs`, the simulated runs of `paper`.
Out: Markdown.
Does not know: how a run is simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from costs import (
    ANSWER,
    HALF_B,
    TEACHERS,
    TEXT,
    break_even,
    devices_for,
    hidden_bytes,
    reading_flops,
    reading_rate,
    topk_bytes,
    training_flops,
    training_rate,
    writing_flops,
    writing_rate,
)
from hardware import FLEETS, MACHINES, STORAGE_DOLLARS_GB_MONTH
from paper import Cost, Fleet, fleet_for, run_costs, training_cost

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def tables() -> dict[str, str]:
    """Heading → table, in the page's order."""
    return {
        "Assumptions": assumptions(),
        "Rates": rates(),
        "Work": work(),
        "Signals": signals(),
        "Runs": runs(),
        "Ranks": ranks(),
        "Keep or read again": keeping(),
    }


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(number: float, unit: str = "") -> str:
    """Two digits that count, with a prefix: 1.4 TB."""
    rounded = float(f"{number:.2g}")
    power = 0
    while rounded >= 1000 and power < len(PREFIXES) - 1:
        rounded, power = rounded / 1000, power + 1
    digits = f"{rounded:.0f}" if rounded >= 100 else f"{rounded:.2g}"
    return f"{digits} {PREFIXES[power]}{unit}".strip()


def span(seconds: float) -> str:
    """Minutes, hours or days."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{short(seconds / size)} {unit}"
    return f"{seconds:.1f} s"


def assumptions() -> str:
    columns = ["device", "peak, bf16", "memory", "its bandwidth", "storage", "network"]
    columns += ["reads", "trains", "writes", "$/h, assumed"]
    return markdown(
        columns,
        [
            [
                one.name,
                short(one.peak, "FLOP/s"),
                short(one.memory, "B"),
                *(short(value, "B/s") for value in (one.bandwidth, one.storage, one.network)),
                f"{one.reads:.0%} of peak",
                f"{one.trains:.0%} of peak",
                f"{one.wrote:.0f} tokens/s (0.5B)" if one.wrote else f"{one.writes:.0%} of bandwidth",
                f"{one.dollars:.2f}",
            ]
            for one in MACHINES.values()
        ],
    )


def rates() -> str:
    """Tokens a second and device."""
    rows = [
        [
            teacher.name,
            one.name,
            f"{devices_for(teacher, one)}",
            *(short(rate(teacher, one)) for rate in (writing_rate, reading_rate, training_rate)),
        ]
        for teacher in TEACHERS
        for one in MACHINES.values()
        if one.name == "H100" or teacher is HALF_B
    ]
    return markdown(["teacher", "device", "devices a copy", "writes", "reads", "student trains"], rows)


def work() -> str:
    """Tokens and operations of a run, and bytes of its text."""
    rows = [
        [
            short(prompts),
            teacher.name,
            short(prompts * ANSWER),
            short(prompts * TEXT),
            short(prompts * ANSWER * writing_flops(teacher)),
            short(prompts * TEXT * reading_flops(teacher)),
            short(prompts * TEXT * training_flops(teacher)),
            short(prompts * TEXT * 4, "B"),
        ]
        for prompts in FLEETS
        for teacher in (TEACHERS[0], TEACHERS[-1])
    ]
    columns = ["prompts", "teacher", "tokens written", "tokens read", "FLOPs writing", "reading", "training", "text"]
    return markdown(columns, rows)


def signals() -> str:
    """Bytes of a token and of a run in each format, and where top-k stops being smaller."""
    rows = [
        [
            f"{teacher.name}, {teacher.width}",
            f"{hidden_bytes(teacher.width):.0f}",
            f"{hidden_bytes(teacher.width, 2):.0f}",
            f"{topk_bytes(64):.0f}",
            f"{2 * teacher.vocabulary:,}",
            f"{break_even(teacher.width):.0f}",
            f"{break_even(teacher.width, 2):.0f}",
            *(short(prompts * ANSWER * hidden_bytes(teacher.width), "B") for prompts in (10**3, 10**6, 10**9)),
            span(10**6 * ANSWER * hidden_bytes(teacher.width) / MACHINES["L4"].network),
        ]
        for teacher in TEACHERS
    ]
    columns = ["teacher, D", "int8", "float16", "top-64", "all logits", "K* (int8)", "K* (float16)"]
    return markdown([*columns, "10³ prompts", "10⁶", "10⁹", "10⁶ over an L4's network"], rows)


def runs() -> str:
    """Hours, money and what saturates, for every number of prompts."""
    rows = []
    for prompts in FLEETS:
        fleet = fleet_for(prompts)
        for teacher in TEACHERS:
            costs = run_costs(prompts, teacher, fleet)
            name = f"{fleet.devices} × {fleet.machine.name}"
            cells = [run_cell(cost) for cost in costs.values()] if costs else ["does not fit"] * 3
            dollars = f"{short(sum(cost.dollars for cost in costs.values()))}" if costs else ""
            rows.append([short(prompts), name, teacher.name, *cells, dollars])
    return markdown(["prompts", "fleet", "teacher", "answers", "signals", "training, one pass", "$"], rows)


def run_cell(cost: Cost) -> str:
    return span(cost.seconds) + (f", {cost.saturated}" if cost.saturated != "workers" else "")


def ranks() -> str:
    """Training a million prompts with more and more devices: where more stop helping."""
    rows = []
    for devices in (1, 2, 4, 8, 16, 32, 64):
        cells = []
        for name in ("L4", "H100"):
            for teacher in (TEACHERS[0], TEACHERS[-1]):
                # Whether the fleet could hold the teacher does not matter to the training.
                alone, many = (training_cost(10**6, teacher, Fleet(MACHINES[name], count)) for count in (1, devices))
                cells.append(f"{alone.seconds / many.seconds:.1f}, {many.saturated}")
        rows.append([f"{devices}", *cells])
    heads = [f"{name}, signals of {teacher.name}" for name in ("L4", "H100") for teacher in (TEACHERS[0], TEACHERS[-1])]
    return markdown(["ranks", *heads], rows)


def keeping() -> str:
    """Months after which a kept token has cost as much as reading it again."""
    rows = []
    for name, teacher in (("2 cores", HALF_B), *(("H100", teacher) for teacher in TEACHERS)):
        device = MACHINES[name]
        reading = device.dollars / 3600 / reading_rate(teacher, device) * TEXT / ANSWER
        month = hidden_bytes(teacher.width) / 1e9 * STORAGE_DOLLARS_GB_MONTH
        rows.append([teacher.name, name, short(1e9 * reading), short(1e9 * month), f"{reading / month:.2g}"])
    columns = ["teacher", "read on", "reading 10⁹ answer tokens, $", "keeping them a month, $", "months until equal"]
    return markdown(columns, rows)
