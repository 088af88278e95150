"""An adapter for one category: the finished student rests, and a low-rank addition learns what that kind needs.

In:  `student` in the stage's folder, `signals/` (the category's training answers), the recipe's [distill.adapter].
Out: `adapter/` beside the student: the adapter as PEFT keeps it, `log.jsonl`, `report.json`.
Does not know: how an adapter becomes a GGUF, when it is switched on.

Losses, temperature, batches and checkpoints are those of the student's own training: only what moves, how fast and for
how long differs, and nothing goes along. The student on disk is read, never written.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from potstill.distill import ranks, train, training_signals
from potstill.distill.trained import ADAPTER
from potstill.models.lora import Lora, write_lora
from potstill.problem import Problem
from potstill.recipe.student import DistillSection
from potstill.run import Run, write_json
from potstill.signals.store import SignalStore

FOLDER = "adapter"


def train_adapter(run: Run, folder: Path) -> None:
    """Train and keep the adapter; does nothing where it is there, and goes on where it was killed.

    Args:
        folder: of the stage, with the finished `student` in it.

    Raises: Problem where no training answer is of the category, or several processes were started.
    """
    final = folder / FOLDER
    if final.exists():
        return
    ranks.refuse_several("Training an adapter")
    section = run.recipe.distill
    category, store = str(section.adapter.category), adapter_signals(run)
    partial = folder / f"{FOLDER}.partial"
    partial.mkdir(exist_ok=True)
    recipe = run.recipe.model_copy(update={"distill": adapter_training(section)})
    if not (partial / "report.json").exists():
        trainer, log = train(replace(run, recipe=recipe), partial, folder / "student", store, f"{category} adapter")
        write_lora(lora_of(trainer.student, section.adapter.alpha), partial, run.stamp(folder))
        write_json(partial / "report.json", log.summary(store.rows) | {"category": category, "answers": len(store)})
    for old in partial.glob("checkpoint-*"):
        shutil.rmtree(old)
    partial.replace(final)


def adapter_signals(run: Run) -> SignalStore:
    """What the adapter is trained on. Raises: Problem where no training answer is of its category."""
    category, everything = str(run.recipe.distill.adapter.category), training_signals(run)
    store = everything.only(category)
    if not len(store):
        known = ", ".join(sorted({example.category for example in everything.examples}))
        raise Problem(
            f'distill.adapter.category = "{category}", but no training answer is of that category',
            f"Choose one of: {known}.",
        )
    return store


def adapter_training(section: DistillSection) -> DistillSection:
    """The student's section with the adapter's own time, rank and rate in it, and without what goes along."""
    own = section.adapter
    return section.model_copy(
        update={
            **{"budget_minutes": own.minutes, "learning_rate": own.learning_rate, "trained": "lora"},
            "lora": section.lora.model_copy(update={"rank": own.rank, "alpha": own.alpha}),
            "joint": section.joint.model_copy(update={"share": None}),  # a category need not hold both kinds
            "on_policy": section.on_policy.model_copy(update={"share": 0.0}),
            "consistency": section.consistency.model_copy(update={"weight": 0.0}),
            "finish": section.finish.model_copy(update={"share": 0.0}),
        }
    )


def lora_of(student: PreTrainedModel, alpha: float) -> Lora:
    """The adapter that was trained into a student."""
    from peft.tuners.lora import LoraLayer

    layers = {}
    for name, module in student.named_modules():
        if isinstance(module, LoraLayer):
            adapted: Any = module
            layers[name] = (adapted.lora_A[ADAPTER].weight.detach(), adapted.lora_B[ADAPTER].weight.detach())
    return Lora(alpha, layers)
