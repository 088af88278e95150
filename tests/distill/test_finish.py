"""The finish: what the student ends as is what its file holds; it learns with those weights; a kill changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_store import build_store
from test_trainer import recipe_with
from test_trainer import train as train_with_trainer
from torch import Tensor
from transformers import PreTrainedModel

from potstill.distill import newest_checkpoint
from potstill.distill.finish import Finish, quantised, rounded, searched_scales, settled
from potstill.losses import forward_kl
from potstill.models.anatomy import head_weight
from potstill.models.checkpoint import save_checkpoint
from potstill.models.gguf import write_gguf
from potstill.models.gguf_reader import dequantised
from potstill.models.quantise import quantise_rows
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.recipe.student import FinishSection
from tiny import build_model, build_tokenizer

TYPES = ("Q4_0", "Q8_0")
STEPS = 24


def section(share: float = 0.5, type_name: str = "Q4_0") -> FinishSection:
    return FinishSection.model_validate({"share": share, "type": type_name})


def in_file(values: Tensor, type_name: str) -> Tensor:
    return torch.from_numpy(dequantize(quantise_rows(values.numpy(), type_name), GGMLQuantizationType[type_name]))


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def changed(model: PreTrainedModel) -> PreTrainedModel:
    other, random = copy.deepcopy(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=random))
    return other


class Lesson:
    """A teacher, its texts, and a training of a student on them, step by step."""

    def __init__(self, teacher: PreTrainedModel, student: PreTrainedModel, rate: float = 1e-3) -> None:
        random = torch.Generator().manual_seed(2)
        self.ids = torch.randint(0, 600, (4, 32), generator=random)
        with torch.no_grad():
            self.truth = teacher(self.ids).logits.flatten(0, 1)
        self.student, self.rate = student, rate
        self.optimiser = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=0.0)

    def kl(self) -> Tensor:
        return forward_kl(self.truth, self.student(self.ids).logits.flatten(0, 1), 1.0).mean()

    def train(self, finish: Finish | None = None, steps: range = range(STEPS)) -> Iterator[int]:
        """Yields after every step, as a checkpoint would be written there."""
        for step in steps:
            self.optimiser.param_groups[0]["lr"] = self.rate * (1 - step / STEPS)
            if finish:
                finish.begin_step(step, (step + 1) / STEPS)
            self.optimiser.zero_grad()
            self.kl().backward()
            if finish:
                finish.before_update()
            self.optimiser.step()
            yield step


def round_for_good(student: PreTrainedModel, folder: Path, type_name: str) -> None:
    Finish(student, section(0.5, type_name), folder).end()


@pytest.mark.parametrize(
    ("type_name", "family", "tied"), [("Q4_0", "qwen2", True), ("Q4_0", "llama", False), ("Q8_0", "qwen2", True)]
)
def test_the_file_holds_exactly_what_was_trained(tmp_path: Path, type_name: str, family: str, tied: bool) -> None:
    tokenizer = build_tokenizer()
    student = build_model(tokenizer, family=family, tie_word_embeddings=tied)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    lesson = Lesson(build_model(tokenizer, family=family, seed=1), student)
    finish = Finish(student, section(0.5, type_name), tmp_path)
    list(lesson.train(finish, range(STEPS - 4, STEPS)))
    report = finish.end()["finish"]
    assert report["rows_inexact"] == 0
    save_checkpoint(student, tmp_path / "tokenizer", tmp_path / "student", torch.float16, "")
    write_gguf(tmp_path / "student", tmp_path / "s.gguf", type_name, metadata={}, progress=Silent())
    held = dict(dequantised(tmp_path / "s.gguf"))
    rounded_ones = quantised(student, type_name)
    assert len(rounded_ones) == 4 * 7 + (1 if tied else 2)
    assert report["weights"] == sum(weight.numel() for weight in rounded_ones.values())
    for name, weight in rounded_ones.items():
        assert np.array_equal(held[name], weight.detach().numpy()), name


@pytest.mark.parametrize("type_name", TYPES)
def test_weights_on_the_grid_stay(tiny_model: PreTrainedModel, tmp_path: Path, type_name: str) -> None:
    round_for_good(tiny_model, tmp_path, type_name)
    before = weights(tiny_model)
    finish = Finish(tiny_model, section(0.5, type_name), tmp_path)
    finish.begin_step(9, 0.9)
    assert same(before, weights(tiny_model))
    finish.end()
    assert same(before, weights(tiny_model))


@pytest.mark.parametrize("type_name", TYPES)
def test_each_number_goes_to_the_nearest_level_of_the_files_own_grid(type_name: str) -> None:
    values = (0.02 * torch.randn(50, 896, generator=torch.Generator().manual_seed(0))).half().float()
    held = in_file(values, type_name)
    ours = rounded(values, searched_scales(values, type_name), type_name)
    assert bool(((ours - values).abs() <= (held - values).abs() + 1e-8).all())
    assert float((ours == held).float().mean()) > 0.7  # the search keeps levels that it found with another scale
    assert torch.equal(rounded(held, searched_scales(values, type_name), type_name), held)


@given(seed=st.integers(0, 10**6), spread=st.floats(0.0, 3.0), size=st.floats(-14.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_any_weights_settle(seed: int, spread: float, size: float) -> None:
    """Outliers, dead rows, numbers too small for float16: the file of the settled ones holds them exactly.

    All settle whose scales are normal float16 numbers; among smaller ones, where a level is as coarse as float16 is,
    a row now and then goes round for ever, and is counted.
    """
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(6, 128, generator=random) * torch.exp(size + spread * torch.randn(6, 128, generator=random))
    values = values.clamp(-20000, 20000)
    values[0] = 0.0
    for type_name in TYPES:
        moved = values * (1 + 0.2 * torch.randn(6, 128, generator=random))
        found, exact = settled(rounded(moved, searched_scales(values, type_name), type_name), type_name)
        scales = searched_scales(found, type_name).abs()
        normal = ((scales == 0) | (scales >= torch.finfo(torch.float16).tiny)).all(dim=-1)
        assert exact[normal].all()
        assert torch.equal(in_file(found.half().float(), type_name)[exact], found[exact])


def test_a_step_learns_with_rounded_weights_and_moves_the_float_ones(
    tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    student = changed(tiny_model)
    before = weights(student)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    lesson = Lesson(tiny_model, student)
    finish = Finish(student, section(), tmp_path)
    finish.begin_step(9, 0.9)
    during = weights(student)
    assert head_weight(student) is student.get_input_embeddings().weight
    embedding = before["model.embed_tokens.weight"]
    assert torch.equal(head_weight(student), rounded(embedding, searched_scales(embedding, "Q4_0"), "Q4_0"))
    lesson.kl().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    finish.before_update()
    optimiser.step()
    after = weights(student)
    names = set(quantised(student, "Q4_0"))
    for name in before:
        assert torch.equal(before[name], during[name]) == (name not in names), name
        torch.testing.assert_close(after[name], before[name] - 0.1 * gradients[name])
    expected = copy.deepcopy(student)
    expected.load_state_dict(during, strict=False)
    expected.zero_grad()
    forward_kl(lesson.truth, expected(lesson.ids).logits.flatten(0, 1), 1.0).mean().backward()
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


def test_it_begins_when_it_is_due(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    before, rounded_at = weights(tiny_model), []
    finish = Finish(tiny_model, section(0.25), tmp_path)
    for step in range(8):
        finish.begin_step(step, (step + 1) / 8)
        if not same(before, weights(tiny_model)):
            rounded_at.append(step)
    assert rounded_at == [6, 7]
    finish.before_update()  # as the loss scaler's skipped step leaves it: nothing is moved, nothing is lost
    assert same(before, weights(tiny_model))


def test_killed_and_resumed_is_never_killed(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    whole = changed(tiny_model)
    finish = Finish(whole, section(), tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    list(Lesson(tiny_model, whole).train(finish))
    for stop in (14, 20):  # before and behind the second taking of scales
        folder = tmp_path / str(stop)
        folder.mkdir()
        lesson = Lesson(tiny_model, changed(tiny_model))
        for step in lesson.train(Finish(lesson.student, section(), folder)):
            if step == stop:
                checkpoint = copy.deepcopy((lesson.student.state_dict(), lesson.optimiser.state_dict()))
            if step == stop + 3:
                break
        resumed = Lesson(tiny_model, changed(tiny_model))
        resumed.student.load_state_dict(checkpoint[0])
        resumed.optimiser.load_state_dict(checkpoint[1])
        list(resumed.train(Finish(resumed.student, section(), folder), range(stop + 1, STEPS)))
        assert same(weights(whole), weights(resumed.student))
    Finish(resumed.student, section(), folder).end()  # killed behind the last step
    assert not same(weights(whole), weights(resumed.student))
    finish.end()
    assert same(weights(whole), weights(resumed.student))


def test_the_trainers_checkpoints_hold_the_float_weights(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    recipe = recipe_with(checkpoint_seconds=1e-6)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    student = changed(tiny_model)
    train_with_trainer(student, store, whole, recipe, companions=[Finish(student, section(0.9), whole)])
    broken = changed(tiny_model)
    train_with_trainer(broken, store, killed, recipe, stop=4, companions=[Finish(broken, section(0.9), killed)])
    checkpoint = newest_checkpoint(killed)
    assert checkpoint is not None
    assert list(killed.glob("finish-*.safetensors"))
    name = "model.layers.0.mlp.up_proj.weight"
    saved = load_file(checkpoint / "model.safetensors")[name]
    assert not torch.equal(saved, rounded(saved, searched_scales(saved, "Q4_0"), "Q4_0"))
    resumed = changed(tiny_model)  # the trainer loads what moves
    finish = Finish(resumed, section(0.9), killed)
    train_with_trainer(resumed, store, killed, recipe, resume=checkpoint, companions=[finish])
    assert same(weights(student), weights(resumed))
    held = weights(student)[name]
    assert torch.equal(held, in_file(held.half().float(), "Q4_0"))


def test_it_beats_rounding_after_the_fact(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    plain = Lesson(tiny_model, changed(tiny_model))
    list(plain.train())
    floating = float(plain.kl().detach())
    round_for_good(plain.student, tmp_path, "Q4_0")
    finished = Lesson(tiny_model, changed(tiny_model))
    finish = Finish(finished.student, section(0.4), tmp_path)
    list(finished.train(finish))
    finish.end()
    assert floating < float(finished.kl().detach()) < 0.9 * float(plain.kl().detach())


def test_rows_that_the_file_keeps_in_floats_are_left_alone(tmp_path: Path) -> None:
    student = build_model(
        build_tokenizer(), hidden_size=48, intermediate_size=96, num_attention_heads=3, num_key_value_heads=3
    )
    before = weights(student)
    Finish(student, section(), tmp_path).end()
    moved = {name for name, value in weights(student).items() if not torch.equal(value, before[name])}
    assert moved == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(4)}  # rows of 96; all others: 48


def test_adapters_are_refused(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    tiny_model.model.layers[0].mlp.lora_A = torch.nn.Linear(64, 2, bias=False)
    with pytest.raises(Problem, match=r"finish\.share = 0"):
        Finish(tiny_model, section(), tmp_path)


def test_damaged_scales_are_named(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    (tmp_path / "finish-3.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(Problem, match="finish-3"):
        Finish(tiny_model, section(), tmp_path).begin_step(5, 0.9)
