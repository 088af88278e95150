"""Cutting and healing: nothing cut changes nothing, healing helps, every family is cut rightly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from potstill.models.anatomy import decoder_layers
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.prune.basis import Basis
from potstill.prune.choose import keep_evenly, keep_influential, keep_neurons, measure_influence
from potstill.prune.heal import RidgeRegression
from potstill.prune.shape import choose_shape, count_parameters
from potstill.prune.student import cut_and_heal, empty_student
from potstill.prune.walk import start_walk
from potstill.recipe import PruneSection
from potstill.vocab.map import VocabMap
from prune.cutting import calibration
from tiny import FAMILIES, build_model, build_tokenizer


def wish(**wanted: object) -> PruneSection:
    return PruneSection.model_validate({"layers": None, "parameters": None, **wanted})


def cut(teacher: PreTrainedModel, layers: list[int], ffn: int, ridge: float | None) -> PreTrainedModel:
    vocabulary = VocabMap.from_kept(range(teacher.config.vocab_size))
    spec = replace(choose_shape(teacher.config, vocabulary.size, wish(layers=len(layers))), ffn=ffn)
    basis = Basis.of_dimensions(torch.arange(teacher.config.hidden_size), teacher.config.hidden_size)
    student = empty_student(teacher, spec, vocabulary, basis)
    with Silent().task("", 1, "") as task:
        healed = cut_and_heal(teacher, student, layers, calibration(teacher.config.vocab_size), basis, ridge, task)
    student.load_state_dict(healed, strict=False)
    assert sum(parameter.numel() for parameter in student.parameters()) == count_parameters(teacher.config, spec)
    return student


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ridge", [None, 1e-6])
def test_pruning_nothing_leaves_the_logits(family: str, ridge: float | None) -> None:
    teacher = build_model(build_tokenizer(), family=family)
    student = cut(teacher, list(range(teacher.config.num_hidden_layers)), teacher.config.intermediate_size, ridge)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        difference = (teacher(ids).logits - student(ids).logits).abs().max()
    assert difference < (1e-5 if ridge is None else 1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_healing_gives_back_what_other_neurons_can_say(family: str) -> None:
    """Every neuron has a quieter twin: cutting the twins loses what they wrote, healing finds all of it."""
    teacher = build_model(build_tokenizer(), family=family)
    half = teacher.config.intermediate_size // 2
    with torch.no_grad():
        for layer in decoder_layers(teacher):
            for name in ("gate_proj", "up_proj", "gate_up_proj"):
                weight = getattr(layer.mlp, name).weight if hasattr(layer.mlp, name) else torch.empty(0, 1)
                for begin in range(0, len(weight), 2 * half):
                    weight[begin + half : begin + 2 * half] = weight[begin : begin + half]
            layer.mlp.down_proj.weight[:, half:] *= 0.02
    ids = torch.randint(0, teacher.config.vocab_size, (4, 24), generator=torch.Generator().manual_seed(99))
    errors = []
    for ridge in (None, 1e-6):
        student = cut(teacher, [0, 1, 2, 3], half, ridge)
        with torch.no_grad():
            errors.append(float((teacher(ids).logits - student(ids).logits).square().mean()))
    assert errors[0] > 1e-6
    assert errors[1] < 0.01 * errors[0]


def test_kept_vocabulary_rows_are_the_teachers(tiny_model: PreTrainedModel) -> None:
    kept = sorted({5, 17, 300, tiny_model.config.eos_token_id})
    vocabulary = VocabMap.from_kept(kept)
    spec = choose_shape(tiny_model.config, len(kept), wish())
    width = tiny_model.config.hidden_size
    student = empty_student(tiny_model, spec, vocabulary, Basis.of_dimensions(torch.arange(width), width))
    assert torch.equal(student.get_input_embeddings().weight, tiny_model.get_input_embeddings().weight[kept])
    assert student.config.eos_token_id == kept.index(tiny_model.config.eos_token_id)


def test_ridge_is_the_textbook_solution_towards_the_prior() -> None:
    random = torch.Generator().manual_seed(0)
    inputs, outputs = torch.randn(50, 6, generator=random), torch.randn(50, 3, generator=random)
    prior = torch.randn(3, 6, generator=random)
    regression = RidgeRegression(prior, 0.1)
    regression.add(inputs[:20], outputs[:20])
    regression.add(inputs[20:], outputs[20:])
    strength = 0.1 * (inputs.T @ inputs).diagonal().mean()
    system = inputs.T @ inputs + strength * torch.eye(6)
    expected = torch.linalg.solve(system, inputs.T @ outputs + strength * prior.T).T
    torch.testing.assert_close(regression.solve(), expected, rtol=1e-4, atol=1e-5)


def test_silent_inputs_keep_the_weights_they_had() -> None:
    prior = torch.randn(3, 4)
    regression = RidgeRegression(prior, 0.01)
    active = torch.randn(40, 4) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    regression.add(active, active @ torch.randn(4, 3))
    torch.testing.assert_close(regression.solve()[:, 3], prior[:, 3])


def test_influence_finds_the_layer_that_does_nothing(tiny_model: PreTrainedModel) -> None:
    idle = decoder_layers(tiny_model)[2]
    with torch.no_grad():
        idle.self_attn.o_proj.weight.zero_()
        idle.mlp.down_proj.weight.zero_()
    ids, _, lengths = calibration(tiny_model.config.vocab_size)
    with Silent().task("", 1, "") as task:
        influence = measure_influence(tiny_model, start_walk(tiny_model, ids, lengths), task)
    assert influence[2] == pytest.approx(0.0, abs=1e-5)
    assert keep_influential(influence, 3) == [0, 1, 3]


def test_choices_at_the_edges() -> None:
    assert keep_evenly(24, 24) == list(range(24))
    assert keep_evenly(24, 2) == [0, 23]
    assert keep_evenly(24, 1) == [0]
    assert keep_influential([0.0, 5.0, 1.0], 1) == [0]
    assert keep_neurons(torch.tensor([1.0, 3.0, 2.0, 3.0]), 2).tolist() == [1, 3]


def test_parameters_decide_the_width(tiny_model: PreTrainedModel) -> None:
    config = tiny_model.config
    full = count_parameters(config, choose_shape(config, 608, wish()))
    spec = choose_shape(config, 608, wish(parameters=int(full * 0.8)))
    assert spec.ffn % 32 == 0
    assert spec.ffn < config.intermediate_size
    with pytest.raises(Problem, match="out of reach"):
        choose_shape(config, 608, wish(parameters=10))
    for name, value in (("layers", 99), ("ffn", 99_968), ("hidden", 128)):
        with pytest.raises(Problem, match=rf"prune\.{name}"):
            choose_shape(config, 608, wish(**{name: value}))
