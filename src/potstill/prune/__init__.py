"""Stage `prune`: the student is cut from the teacher and healed in closed form.

In:  `vocab/`, `signals/` (ids of both splits, the held-out signals), text files of the recipe, the teacher.
Out: `prune/cut` (as cut), `prune/student` (healed), `report.json`.
Does not know: training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.run import Run, write_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from potstill.prune.shape import StudentSpec

__all__ = ["prune"]


def prune(run: Run, folder: Path) -> None:
    """Cut, heal, and say what it cost on held-out answers before any training."""
    import torch

    from potstill.machine import fastest_dtype
    from potstill.models.checkpoint import save_checkpoint
    from potstill.models.teacher import find_teacher, load_model
    from potstill.prune.calibration import calibration_batches
    from potstill.prune.shape import choose_shape, count_parameters
    from potstill.prune.student import cut_and_heal, empty_student
    from potstill.vocab.map import VocabMap

    section, stamp = run.recipe.prune, run.stamp(folder)
    found = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    teacher = load_model(found.checkpoint, getattr(torch, fastest_dtype()))
    vocabulary = VocabMap.load(run.stage("vocab") / "vocab_map.safetensors")
    spec = choose_shape(teacher.config, vocabulary.size, section.layers, section.ffn, section.parameters)
    batches = calibration_batches(run, torch.from_numpy(vocabulary.teacher_ids))
    kept, influence = _keep_layers(run, teacher, batches[1:], spec)
    student = empty_student(teacher, spec, vocabulary)
    run.progress.say(_describe(student, spec, run.recipe.export.types))
    total = teacher.config.num_hidden_layers
    with run.progress.task("cut and heal" if section.heal else "cut", total, "layers") as task:
        healed = cut_and_heal(teacher, student, kept, batches, section.ridge if section.heal else None, task)
    save_checkpoint(student, run.stage("vocab"), folder / "cut", torch.bfloat16, stamp)
    student.load_state_dict({name: weight.to(student.dtype) for name, weight in healed.items()}, strict=False)
    save_checkpoint(student, run.stage("vocab"), folder / "student", torch.bfloat16, stamp)
    write_json(
        folder / "report.json",
        {
            "spec": vars(spec),
            "parameters": count_parameters(teacher.config, spec),
            "kept_layers": [layer + 1 for layer in kept],
            "influence": influence,
            "calibration_tokens": int(sum(lengths.sum() for lengths in batches[2])),
            "healed": section.heal,
        },
    )


def _keep_layers(
    run: Run, teacher: PreTrainedModel, batches: Sequence[Sequence[Tensor]], spec: StudentSpec
) -> tuple[list[int], list[float]]:
    """Layers that stay (from 0), and the influence of all where it was measured."""
    from potstill.prune.choose import keep_evenly, keep_influential, measure_influence
    from potstill.prune.walk import start_walk

    total = teacher.config.num_hidden_layers
    if spec.layers == total or run.recipe.prune.choose == "even":
        return keep_evenly(total, spec.layers), []
    with run.progress.task("influence of each layer", total, "layers") as task:
        # A few thousand tokens rank the layers as well as all of them do.
        influence = measure_influence(teacher, start_walk(teacher, batches[0][::4], batches[1][::4]), task)
    return keep_influential(influence, spec.layers), influence


def _describe(student: PreTrainedModel, spec: StudentSpec, types: Sequence[str]) -> str:
    """What was cut, and what its GGUFs will weigh: known before anybody trains it."""
    from potstill.models.quantise import plan_types, predicted_bytes

    shapes = {name: tuple(parameter.shape) for name, parameter in student.named_parameters()}
    sizes = []
    for wanted in types:
        others = sorted(set(plan_types(shapes, wanted).values()) - {wanted, "F32"})
        fallback = f" (rows that do not divide become {', '.join(others)})" if others else ""
        sizes.append(f"{wanted} {predicted_bytes(shapes, wanted) / 1e6:.0f} MB{fallback}")
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return f"student: {spec.describe()}: {parameters / 1e6:.1f}M parameters; {', '.join(sizes)}"
