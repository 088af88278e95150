"""Stage `prune`: the student is cut from its base (the teacher, or another model) and healed in closed form.

In:  `vocab/`, `signals/` (ids of the training split), text files of the recipe, the base.
Out: `prune/cut` (as cut), `prune/student` (healed), `report.json`.
Does not know: training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.problem import Problem
from potstill.recipe.product import GUARD
from potstill.run import Run, write_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from potstill.prune.basis import Basis
    from potstill.prune.shape import StudentSpec
    from potstill.recipe import ExportSection
    from potstill.vocab.map import VocabMap

__all__ = ["prune"]

KNOWS_NOTHING = "random weights: it starts knowing nothing"


def prune(run: Run, folder: Path) -> None:
    """Cut, heal, and keep both: what each cost is measured in `evaluate`, beside what training brought back."""
    import torch

    from potstill.models.architecture import read_config
    from potstill.models.checkpoint import save_checkpoint
    from potstill.prune.shape import choose_shape, count_parameters, cut_share

    section, stamp, base = run.recipe.prune, run.stamp(folder), _find_base(run)
    config, vocabulary = read_config(base), _vocabulary(run)
    size = config.vocab_size if vocabulary is None else vocabulary.size
    _require_rows(vocabulary, config, base)
    spec = choose_shape(config, size, section)
    if section.initialise == "random":
        student, healed, told = _initialise(run, config, spec, vocabulary)
    else:
        student, healed, told = _cut(run, base, spec, vocabulary)
    save_checkpoint(student, run.stage("vocab"), folder / "cut", torch.bfloat16, stamp)
    student.load_state_dict({name: weight.to(student.dtype) for name, weight in healed.items()}, strict=False)
    save_checkpoint(student, run.stage("vocab"), folder / "student", torch.bfloat16, stamp)
    known = {
        "base": section.base or "",
        "spec": vars(spec),
        "parameters": count_parameters(config, spec),
        "cut": cut_share(config, spec) if section.initialise == "cut" else 1.0,
    }
    write_json(folder / "report.json", known | told | {"healed": bool(healed)})


def _find_base(run: Run) -> Path:
    from potstill.models.base import find_base, has_weights
    from potstill.models.teacher import find_teacher

    section = run.recipe.prune
    if section.base is None:
        return find_teacher(run.recipe.teacher.model, run.home, run.progress).checkpoint
    base = find_base(section.base, run.home, run.progress)
    if section.initialise == "cut" and not has_weights(base):
        raise Problem(
            f"{base} holds no weights to cut from", 'Put its .safetensors there, or set initialise = "random".'
        )
    return base


def _vocabulary(run: Run) -> VocabMap | None:
    """The kept rows of the base; None where the student has the base's own tokenizer."""
    from potstill.vocab.map import MAP, VocabMap

    path = run.stage("vocab") / MAP
    return VocabMap.load(path) if path.exists() else None


def _require_rows(vocabulary: VocabMap | None, config: PreTrainedConfig, base: Path) -> None:
    if vocabulary is not None and int(vocabulary.teacher_ids[-1]) >= config.vocab_size:
        raise Problem(
            f"{base} has {config.vocab_size:,} tokens, the vocabulary names number {vocabulary.teacher_ids[-1]:,}",
            "Give a prune.base of the teacher's family.",
        )


def _initialise(
    run: Run, config: PreTrainedConfig, spec: StudentSpec, vocabulary: VocabMap | None
) -> tuple[PreTrainedModel, dict[str, Tensor], dict[str, Any]]:
    """A student of that shape that nobody has taught anything; Transformers' own initialisation, seeded."""
    import torch
    from transformers import AutoModelForCausalLM

    from potstill.prune.shape import student_config

    torch.manual_seed(run.recipe.seed)
    student = AutoModelForCausalLM.from_config(student_config(config, spec, vocabulary), dtype=torch.float32)
    student.eval()
    run.progress.say(_describe(student, spec, run.recipe.export))
    run.progress.say(f"{KNOWS_NOTHING}{' (prune.heal has nothing to heal)' if run.recipe.prune.heal else ''}")
    return student, {}, {"initialised": KNOWS_NOTHING}


def _cut(
    run: Run, base: Path, spec: StudentSpec, vocabulary: VocabMap | None
) -> tuple[PreTrainedModel, dict[str, Tensor], dict[str, Any]]:
    """The student as cut, its healed down-projections, and what there is to report."""
    import torch

    from potstill.machine import fastest_dtype
    from potstill.models.teacher import load_model
    from potstill.prune.calibration import calibration_batches
    from potstill.prune.student import cut_and_heal, empty_student

    section = run.recipe.prune
    model = load_model(base, getattr(torch, fastest_dtype()))
    rows = None if vocabulary is None else torch.from_numpy(vocabulary.teacher_ids)
    batches = calibration_batches(run, rows)
    kept, influence = _keep_layers(run, model, batches[1:], spec)
    basis = _choose_basis(run, model, batches[1:], spec)
    student = empty_student(model, spec, vocabulary, basis)
    run.progress.say(_describe(student, spec, run.recipe.export))
    with run.progress.task("cut and heal" if section.heal else "cut", model.config.num_hidden_layers, "layers") as task:
        healed = cut_and_heal(model, student, kept, batches, basis, section.ridge if section.heal else None, task)
    told = {
        "kept_layers": [layer + 1 for layer in kept],
        "influence": influence,
        "calibration_tokens": int(sum(lengths.sum() for lengths in batches[2])),
    }
    return student, healed, told


def _keep_layers(
    run: Run, model: PreTrainedModel, batches: Sequence[Sequence[Tensor]], spec: StudentSpec
) -> tuple[list[int], list[float]]:
    """Layers that stay (from 0), and the influence of all where it was measured."""
    from potstill.prune.choose import keep_evenly, keep_influential, measure_influence
    from potstill.prune.walk import start_walk

    total = model.config.num_hidden_layers
    if spec.layers == total or run.recipe.prune.choose == "even":
        return keep_evenly(total, spec.layers), []
    with run.progress.task("influence of each layer", total, "layers") as task:
        # A few thousand tokens rank the layers as well as all of them do.
        influence = measure_influence(model, start_walk(model, batches[0][::4], batches[1][::4]), task)
    return keep_influential(influence, spec.layers), influence


def _choose_basis(run: Run, model: PreTrainedModel, batches: Sequence[Sequence[Tensor]], spec: StudentSpec) -> Basis:
    """The directions of the stream that stay: all of them where the width does."""
    import torch

    from potstill.prune.basis import Basis, choose_basis, measure_stream
    from potstill.prune.walk import start_walk

    width = model.config.hidden_size
    if spec.hidden == width:
        return Basis.of_dimensions(torch.arange(width), width)
    with run.progress.task("variance of the stream", model.config.num_hidden_layers, "layers") as task:
        moment = measure_stream(model, start_walk(model, batches[0][::4], batches[1][::4]), task)
    return choose_basis(moment, spec.hidden, rotate=run.recipe.prune.narrow == "rotate")


def _describe(student: PreTrainedModel, spec: StudentSpec, asked: ExportSection) -> str:
    """What was cut, and what its GGUFs will weigh: known before anybody trains it."""
    from potstill.models.mix import mix_of
    from potstill.models.quantise import plan_types, predicted_bytes

    shapes = {name: tuple(parameter.shape) for name, parameter in student.named_parameters()}
    sizes = []
    for wanted in asked.types:
        plan = mix_of(wanted.removesuffix(GUARD), asked.mixes)
        others = sorted(set(plan_types(shapes, plan).values()) - {wanted, "F32"})
        inside = f" (holds {', '.join(others)})" if others else ""
        sizes.append(f"{wanted} {predicted_bytes(shapes, plan) / 1e6:.0f} MB{inside}")
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return f"student: {spec.describe()}: {parameters / 1e6:.1f}M parameters; {', '.join(sizes)}"
