"""What each stage takes: minutes, memory, disk.

In:  a recipe, its text counted, its models' sizes, a probed machine.
Out: numbers; each constant says what was measured to get it.
Does not know: where the counts come from, words for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from potstill.check.material import Material, count_material
from potstill.check.sizes import Sizes, size_up
from potstill.machine import Machine
from potstill.models.catalogue import CATALOGUE
from potstill.recipe import Recipe

EFFICIENCY = {"float32": 0.9, "bfloat16": 0.5}
"""Share of the probed GEMM rate that reading and training reach (benchmarks/ print it): what lies between the products
weighs more where these are fast."""
MOST_GFLOPS = 800.0
"""What counts of that rate: beyond it (AMX) memory decides, and a faster product brings nothing more."""
WRITING_EFFICIENCY = 0.3
"""Share of the same rate that writing side by side reaches."""
MAKING_UP_TOKENS = 38
"""Of an answer, what a prompt that is made up takes to write (docs/log.md: 3,000 in 11 minutes, 22 tokens each)."""
HEALING_SHARE = 1.3
"""Of reading by both models, what walking them layer by layer takes, the regression included."""
TRAINING_SHARE = 1.35
"""Of the student's own products, what a step takes with its head and its optimiser: 328 tokens/s of 150M parameters
on a Xeon with AMX, 74 without AVX-512 (docs/results.md)."""
ROUNDING_SECONDS = 1e-6
"""A parameter: all of its types written, rounded and proved."""
LIBRARIES_MB, OTHER_MB = 600.0, 300.0
"""PyTorch and Transformers loaded; what lies beside a teacher that reads."""
WRITTEN_MB = 403.0
"""Keys and values of 65,536 tokens of a teacher like the default one that writes side by side, a byte a number."""
STUDENT_SHARE = 0.45
"""Of the teacher's time to be asked everything, what the student needs; the seconds below are the teacher's."""


@dataclass(frozen=True)
class Job:
    """A recipe, its text and the sizes of its models."""

    recipe: Recipe
    material: Material
    sizes: Sizes


def take_stock(recipe: Recipe, home: Path) -> Job:
    """Count the text, size up the models. Raises: Problem where the student's shape is impossible."""
    return Job(recipe, count_material(recipe), size_up(recipe, home))


def predict_minutes(job: Job, machine: Machine) -> dict[str, float]:
    """Stage → minutes; stages that take seconds are left out."""
    rate, recipe, material, sizes = work_per_minute(machine), job.recipe, job.material, job.sizes
    prune, exchanges = recipe.prune, material.exchange / material.answer
    there = material.training * material.exchange
    calibration = prune.calibration_tokens if prune.texts else min(prune.calibration_tokens, there)
    looks = recipe.vocab.expectation_tokens + recipe.vocab.coverage_tokens
    # The student reads its text, and the products of its inputs with themselves cost as much again.
    moments = recipe.export.importance_tokens * exchanges * 4 * sizes.student
    writing = 2 * sizes.teacher / (product_rate(machine) * WRITING_EFFICIENCY * 60)
    training = recipe.distill.budget_minutes or recipe.distill.epochs * pass_minutes(job, machine)
    return {
        "prompts": material.to_make_up * MAKING_UP_TOKENS * writing,
        "answers": material.to_answer * material.answer * writing,
        "vocab": looks * 2 * (sizes.body * exchanges + sizes.head) / rate,
        "signals": reading_minutes(job, material.prompts, machine),
        "prune": calibration * 2 * (sizes.body + sizes.student) * HEALING_SHARE / rate,
        "distill": training + (recipe.distill.adapter.minutes if recipe.distill.adapter.category else 0.0),
        "export": moments / rate + sizes.student * ROUNDING_SECONDS / 60,
        "evaluate": evaluation_minutes(recipe),
    }


def product_rate(machine: Machine) -> float:
    """Operations a second of its faster products, as far as they count."""
    return min(max(machine.bfloat16_gflops, machine.float32_gflops), MOST_GFLOPS) * 1e9


def work_per_minute(machine: Machine) -> float:
    """Operations a minute that reading and training reach."""
    faster = "bfloat16" if machine.bfloat16_gflops > machine.float32_gflops else "float32"
    return product_rate(machine) * EFFICIENCY[faster] * 60


def reading_minutes(job: Job, prompts: float, machine: Machine) -> float:
    """The teacher reads so many prompts with their answers."""
    return prompts * job.material.exchange * 2 * job.sizes.body / work_per_minute(machine)


def pass_minutes(job: Job, machine: Machine) -> float:
    """The student trains on all of its text once."""
    tokens = job.material.training * job.material.exchange
    return tokens * 6 * job.sizes.student * TRAINING_SHARE / work_per_minute(machine)


def evaluation_minutes(recipe: Recipe) -> float:
    """Timing, comparing and asking; the default teacher's replies ship."""
    section = recipe.evaluate.sizes()
    asked = (
        section.code_tasks * 4.0
        + section.commonsense * 0.43
        + section.commonsense_written * 0.6
        + section.stability_questions * section.stability_samples * 1.1
    )
    shipped = recipe.teacher.model == CATALOGUE[0].name and not section.fresh
    timing = 60 + 14 * section.rounds * (1 + len(recipe.export.types)) + 6 * min(section.fidelity_answers or 40, 40)
    return (timing + 0.7 * section.code_tasks + asked * (STUDENT_SHARE + (not shipped))) / 60


def run_megabytes(job: Job) -> float:
    """Disk of the run folder at its largest: two checkpoints with moments, students, GGUFs, signals."""
    parameters, tokens = job.sizes.student / 1e6, job.material.prompts * job.material.answer
    signals = tokens * (910 if job.recipe.signals.precision == "int8" else 1792) / 1e6
    return 2 * 12 * parameters + 8 * parameters + 4 * parameters + signals


def memory_megabytes(job: Job, dtype: str) -> dict[str, float]:
    """Stage → its peak memory, where that is more than llama.cpp needs to chat.

    Measured (docs/results.md), vocab, prune and distill: 2,842, 2,880 and 3,799 MB in bfloat16; 3,861, 4,492 and 4,674
    in float32, where weights are read in 2 bytes and kept in 4.

    Args:
        dtype: "bfloat16" or "float32", in which this machine multiplies.
    """
    size = 4 if dtype == "float32" else 2
    teacher, student = job.sizes.teacher / 1e6, job.sizes.student / 1e6
    reading = LIBRARIES_MB + OTHER_MB + (2 + size) * teacher
    states = max(job.recipe.prune.calibration_tokens, 1) * 6_000 * size / 1e6
    return {
        **({"answers": max(reading, LIBRARIES_MB + size * (teacher + WRITTEN_MB))} if job.material.to_answer else {}),
        "vocab": reading,
        "signals": reading,
        "prune": max(reading, LIBRARIES_MB + size * (teacher + student) + states),
        "distill": LIBRARIES_MB
        + 18 * student
        + (size * teacher if job.recipe.distill.on_policy.share else 0)
        + job.recipe.distill.batch_tokens * (0.9 + 0.15 * size),
    }
