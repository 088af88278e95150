"""What a recipe will cost on this machine, before anything is done.

In:  a recipe, a probed machine.
Out: predicted tokens, disk, memory and minutes; or a Problem where it cannot fit.
Does not know: how stages work beyond what each costs a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from potstill.answers.shipped import MADE_UP_ANSWERS, shipped_count
from potstill.machine import Machine, available_memory_mb, disk_free_mb
from potstill.models.base import read_config
from potstill.models.catalogue import CATALOGUE
from potstill.problem import Problem
from potstill.prompts import Prompt, golden
from potstill.prune.shape import StudentSpec, choose_shape, count_parameters
from potstill.recipe import PruneSection, Recipe, SyntheticSection

TEACHER: Any = SimpleNamespace(
    model_type="qwen2",
    hidden_size=896,
    num_hidden_layers=24,
    intermediate_size=4864,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
"""The default teacher's shape: its weights may not be here yet."""
TEACHER_PARAMETERS = 494e6
BODY_PARAMETERS, HEAD_PARAMETERS = 358e6, 136e6
"""The default teacher without its embedding: what a reading costs, 2 operations each; and what logits cost."""
ANSWER_TOKENS, QUESTION_TOKENS = 155, 62
"""Means over the golden 200 and their shipped answers, template included."""
EXCHANGE_TOKENS = ANSWER_TOKENS + QUESTION_TOKENS
EFFICIENCY = {"float32": 0.9, "bfloat16": 0.5}
"""Share of the probed GEMM rate that reading and training reach (benchmarks/ print it): what lies between the products
weighs more where these are fast."""
MOST_GFLOPS = 800.0
"""What counts of that rate: beyond it (AMX) memory decides, and a faster product brings nothing more."""
WRITING_EFFICIENCY = 0.3
"""Share of the same rate that writing side by side reaches."""
HEALING_SHARE = 1.3
"""Of reading by both models, what walking them layer by layer takes, the regression included."""
TRAINING_SHARE = 1.2
"""Of the student's own products, what a step takes with its head."""
ROUNDING_SECONDS = 1e-6
"""A parameter: all of its types written, rounded and proved."""
SPARE = 1.25
"""Text that is advised, as a multiple of what training is predicted to read."""
STUDENT_SHARE = 0.45
"""Of the teacher's time to be asked everything, what the student needs; the seconds below are the teacher's."""


def predict(recipe: Recipe, machine: Machine) -> list[list[str]]:
    """Rows of what, how much, of which."""
    prompts, minutes = count_prompts(recipe), predict_minutes(recipe, machine)
    return [
        ["prompts", f"{prompts:,}", "train and held-out together"],
        ["tokens read", f"{prompts * EXCHANGE_TOKENS:,}", f"about {ANSWER_TOKENS} answer tokens each"],
        _passes_row(recipe, machine),
        _student_row(recipe),
        ["disk, run folder", f"{run_megabytes(recipe) / 1e3:.1f} GB", f"{machine.disk_free_mb / 1e3:.0f} GB free"],
        ["memory", f"{memory_megabytes(recipe) / 1e3:.1f} GB", f"{machine.memory_mb / 1e3:.1f} GB available"],
        [
            "minutes",
            f"{sum(minutes.values()):.0f}",
            ", ".join(f"{name} {value:.1f}" for name, value in minutes.items()),
        ],
        [
            "this machine",
            f"{machine.cores} cores",
            f"float32 {machine.float32_gflops:.0f}, bfloat16 {machine.bfloat16_gflops:.0f} GFLOP/s, "
            f"copy {machine.bandwidth_gb_s:.0f} GB/s",
        ],
    ]


def predict_minutes(recipe: Recipe, machine: Machine) -> dict[str, float]:
    """Stage → minutes; stages that take seconds are left out."""
    rate, parameters, prune = work_per_minute(machine), student_parameters(recipe), recipe.prune
    there = count_training(recipe) * EXCHANGE_TOKENS
    calibration = prune.calibration_tokens if prune.texts else min(prune.calibration_tokens, there)
    looks = recipe.vocab.expectation_tokens + recipe.vocab.coverage_tokens
    look = 2 * BODY_PARAMETERS * EXCHANGE_TOKENS / ANSWER_TOKENS + 2 * HEAD_PARAMETERS
    # The student reads its text, and the products of its inputs with themselves cost as much again.
    moments = recipe.export.importance_tokens * EXCHANGE_TOKENS / ANSWER_TOKENS * 4 * parameters
    written = prompts_to_answer(recipe) * ANSWER_TOKENS * 2 * TEACHER_PARAMETERS
    return {
        "answers": written / (product_rate(machine) * WRITING_EFFICIENCY * 60),
        "vocab": looks * look / rate,
        "signals": reading_minutes(count_prompts(recipe), machine),
        "prune": calibration * 2 * (BODY_PARAMETERS + parameters) * HEALING_SHARE / rate,
        "distill": recipe.distill.budget_minutes or recipe.distill.epochs * pass_minutes(recipe, machine),
        "export": moments / rate + parameters * ROUNDING_SECONDS / 60,
        "evaluate": evaluation_minutes(recipe),
    }


def product_rate(machine: Machine) -> float:
    """Operations a second of its faster products, as far as they count."""
    return min(max(machine.bfloat16_gflops, machine.float32_gflops), MOST_GFLOPS) * 1e9


def work_per_minute(machine: Machine) -> float:
    """Operations a minute that reading and training reach."""
    faster = "bfloat16" if machine.bfloat16_gflops > machine.float32_gflops else "float32"
    return product_rate(machine) * EFFICIENCY[faster] * 60


def reading_minutes(prompts: float, machine: Machine) -> float:
    """The teacher reads so many prompts with their answers."""
    return prompts * EXCHANGE_TOKENS * 2 * BODY_PARAMETERS / work_per_minute(machine)


def pass_minutes(recipe: Recipe, machine: Machine) -> float:
    """The student trains on all of its text once."""
    tokens = count_training(recipe) * EXCHANGE_TOKENS
    return tokens * 6 * student_parameters(recipe) * TRAINING_SHARE / work_per_minute(machine)


def _passes_row(recipe: Recipe, machine: Machine) -> list[str]:
    """How often training reads its text; on a slow machine the teacher reads far more than the student gets to."""
    budget, training = recipe.distill.budget_minutes, count_training(recipe)
    if budget is None or not training:
        return ["passes in training", f"{recipe.distill.epochs:g}", "distill.epochs"]
    passes = budget / pass_minutes(recipe, machine)
    trained, healed = training * passes * SPARE, recipe.prune.calibration_tokens / EXCHANGE_TOKENS
    enough = math.ceil(max(trained, healed) / 10) * 10
    saved = reading_minutes(training - enough, machine)
    told = f"prompts.limit = {enough} would do and save {saved:.0f} minutes" if saved > budget / 2 else "over its text"
    return ["passes in training", f"{passes:.2f}", told]


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


def count_prompts(recipe: Recipe) -> int:
    """Prompts before duplicates are dropped: golden ones, made-up ones, and lines of the user's files."""
    held_out = sum(prompt.split == "held-out" for prompt in _golden(recipe))
    held_out += sum(round(_lines(file.path) * file.held_out_share) for file in recipe.prompts.files)
    return held_out + count_training(recipe)


def count_training(recipe: Recipe) -> int:
    """Those of them that train."""
    training = sum(prompt.split != "held-out" for prompt in _golden(recipe)) + recipe.prompts.synthetic.count
    for file in recipe.prompts.files:
        training += (lines := _lines(file.path)) - round(lines * file.held_out_share)
    return min(training, recipe.prompts.limit or training)


def _golden(recipe: Recipe) -> Sequence[Prompt]:
    return golden() if recipe.prompts.golden else []


def student_parameters(recipe: Recipe) -> int:
    """The student's size; cut from a model that is not here, a guess as if it were the default teacher.

    Raises: Problem where the model it is cut from cannot give the shape that is asked for.
    """
    config, spec = student_shape(recipe)
    if spec is not None:
        return count_parameters(config, spec)
    prune = recipe.prune
    if prune.parameters is not None and not (prune.layers and prune.ffn):
        return prune.parameters
    guessed = choose_shape(TEACHER, recipe.vocab.size, PruneSection.model_validate({"layers": 1, "ffn": 32}))
    layers, ffn = prune.layers or TEACHER.num_hidden_layers, prune.ffn or TEACHER.intermediate_size
    return count_parameters(TEACHER, replace(guessed, layers=layers, ffn=ffn))


def student_shape(recipe: Recipe) -> tuple[Any, StudentSpec | None]:
    """Configuration of what the student is cut from, and its shape; None where that configuration is not here."""
    name = recipe.prune.base or recipe.teacher.model
    if name == CATALOGUE[0].name:
        return TEACHER, choose_shape(TEACHER, recipe.vocab.size, recipe.prune)
    if not (Path(name) / "config.json").is_file():
        return TEACHER, None
    config = read_config(Path(name))
    size = config.vocab_size if recipe.prune.base else min(recipe.vocab.size, config.vocab_size)
    return config, choose_shape(config, size, recipe.prune)


def _student_row(recipe: Recipe) -> list[str]:
    spec = student_shape(recipe)[1]
    shape = spec.describe() if spec else "of a model that is not here yet: a guess"
    return ["student", f"{student_parameters(recipe) / 1e6:.1f}M parameters", shape]


def prompts_to_answer(recipe: Recipe) -> int:
    """How many the teacher has to answer itself: the default one's answers ship, to golden and to made-up prompts."""
    prompts = recipe.prompts
    if recipe.answers.fresh or recipe.teacher.model != CATALOGUE[0].name:
        return count_prompts(recipe)
    usual = SyntheticSection.model_validate({"count": prompts.synthetic.count})
    made_up = shipped_count(MADE_UP_ANSWERS) if prompts.synthetic == usual and recipe.seed == 0 else 0
    own = sum(_lines(file.path) for file in prompts.files)
    return min(count_prompts(recipe), own + max(0, prompts.synthetic.count - made_up))


def run_megabytes(recipe: Recipe) -> float:
    """Disk of the run folder at its largest: two checkpoints with moments, students, GGUFs, signals."""
    parameters = student_parameters(recipe) / 1e6
    signals = count_prompts(recipe) * ANSWER_TOKENS * (910 if recipe.signals.precision == "int8" else 1792) / 1e6
    return 2 * 12 * parameters + 8 * parameters + 4 * parameters + signals


def memory_megabytes(recipe: Recipe) -> float:
    """Memory at its largest: teacher and student together in `prune`, or weights, gradients and moments."""
    parameters = student_parameters(recipe) / 1e6
    tokens = max(recipe.prune.calibration_tokens, 1)
    healing = TEACHER_PARAMETERS * 2 / 1e6 + 2 * parameters + tokens * 12_000 / 1e6
    training = 18 * parameters + recipe.distill.batch_tokens * 1.2
    return 600 + max(healing, training)


def refuse(recipe: Recipe, folder: Path, home: Path) -> None:
    """Raises: Problem where a file is missing, or where disk or memory cannot hold the run."""
    for path in (*(file.path for file in recipe.prompts.files), *recipe.vocab.texts, *recipe.prune.texts):
        if not path.exists():
            raise Problem(f"{path}: named in the recipe, but not there", "Mend the path, or take it out.")
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    store = next(parent for parent in (home, *home.resolve().parents) if parent.exists())
    have = any((home / "teachers").glob("*/checkpoint"))
    for where, needed, remedy in (
        (place, run_megabytes(recipe), "Free some, or give another --run."),
        (store, 0.0 if have else 2500.0, "Free some, or set POTSTILL_HOME to another disk."),
    ):
        if disk_free_mb(where) < needed:
            raise Problem(f"{where}: {disk_free_mb(where) / 1e3:.1f} GB free, {needed / 1e3:.1f} GB needed", remedy)
    if available_memory_mb() < memory_megabytes(recipe):
        raise Problem(
            f"{available_memory_mb() / 1e3:.1f} GB of memory available, {memory_megabytes(recipe) / 1e3:.1f} GB needed",
            "Lower prune.calibration_tokens, distill.batch_tokens or prune.parameters, or close other programs.",
        )


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError:
        return 0
