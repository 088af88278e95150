"""Several losses in one training: each is told by its name, weighs what it should, and can be left out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_store import build_store
from test_trainer import changed, largest_difference, recipe_with, train
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.distill.batches import collate
from potstill.distill.companion import Batch, Companion
from potstill.distill.shares import gradient_shares
from potstill.signals.formats import Rows
from potstill.signals.store import SignalStore

WEIGHTS = {
    "forward_kl": 1.0,
    "reverse_kl": 0.5,
    "jensen_shannon": 2.0,
    "skewed_kl": 0.25,
    "total_variation": 3.0,
    "cross_entropy": 0.1,
}


@pytest.mark.parametrize("kind", ["hidden", "topk"])
def test_every_loss_is_told_and_they_add_up(tiny_model: PreTrainedModel, tmp_path: Path, kind: str) -> None:
    store = build_store(tiny_model, tmp_path / "s", kind)
    lines = train(changed(tiny_model, 1), store, tmp_path / "run", recipe_with(epochs=1.0, losses=WEIGHTS))
    for line in lines:
        assert line["loss"] == pytest.approx(sum(weight * line[name] for name, weight in WEIGHTS.items()), rel=1e-4)
    same = train(copy.deepcopy(tiny_model), store, tmp_path / "t", recipe_with(learning_rate=1e-9, losses=WEIGHTS))
    assert all(line[name] < 1e-3 for line in same for name in WEIGHTS if name != "cross_entropy")
    assert all(line["cross_entropy"] > 1.0 for line in same)


def test_shares_are_measured_when_asked_and_add_up(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", layers=(3,), attention=(2,))
    settings: dict[str, Any] = {
        "hidden_pairs": [{"student": 2, "teacher": 3}],
        "attention_pairs": [{"student": 1, "teacher": 2}],
        "losses": {"forward_kl": 1.0, "cross_entropy": 0.5},
    }
    measured, plain = changed(tiny_model, 2), changed(tiny_model, 2)
    lines = train(measured, store, tmp_path / "a", recipe_with(**settings, **{}), companions=[Extra(measured)])
    assert not any(name.startswith("share_") for line in lines for name in line)
    settings["losses"] = {**settings["losses"], "shares_every": 3}
    lines = train(plain, store, tmp_path / "b", recipe_with(**settings), companions=[Extra(plain)])
    for number, line in enumerate(lines):
        shares = {name: value for name, value in line.items() if name.startswith("share_")}
        if number % 3:
            assert not shares
        else:
            assert set(shares) == {
                "share_forward_kl", "share_cross_entropy", "share_hidden_2_3", "share_attention_1_2", "share_extra"
            }  # fmt: skip
            assert sum(shares.values()) == pytest.approx(1.0)
            assert min(shares.values()) > 0.0
    assert largest_difference(measured, plain) < 1e-6  # to measure changes nothing


def test_a_share_is_the_part_of_the_norms() -> None:
    weight, other = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.ones(2))
    losses = {"a": 3 * weight.sum(), "b": other.sum(), "none": torch.tensor(5.0)}
    assert gradient_shares(losses, [weight, other]) == pytest.approx({"a": 0.75, "b": 0.25, "none": 0.0})
    assert gradient_shares({"none": torch.tensor(5.0)}, [weight]) == {"none": 0.0}


def test_masked_tails_teach_nothing_but_hidden_states_do(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden", layers=(3,))
    pairs = [{"student": 2, "teacher": 3}]
    tail = {"probability": 1.0, "share": 1.0}
    recipe = recipe_with(epochs=1.0, tail=tail, losses={"forward_kl": 1.0, "cross_entropy": 1.0}, hidden_pairs=pairs)
    lines = train(changed(tiny_model, 3), store, tmp_path / "all", recipe)
    assert all("forward_kl" not in line and "cross_entropy" not in line for line in lines)
    assert all(line["loss"] == pytest.approx(line["hidden_2_3"], rel=1e-5) for line in lines)
    student = changed(tiny_model, 3)
    train(student, store, tmp_path / "nothing", recipe_with(epochs=1.0, tail=tail))
    assert largest_difference(student, changed(tiny_model, 3)) == 0.0


def test_given_answers_teach_their_own_tokens_alone(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    given = (0, 2, 6)
    store = build_store(tiny_model, tmp_path / "s", "hidden", given=given)
    joint = {"share": 0.5, "losses": "cross_entropy"}
    for cross, weight in ((0.0, 1.0), (0.25, 0.25)):
        losses = {"forward_kl": 1.0, "cross_entropy": cross}
        recipe = recipe_with(epochs=1.0, joint=joint, losses=losses)
        lines = train(changed(tiny_model, 4), store, tmp_path / f"run{cross}", recipe)
        alone = [line for line in lines if "forward_kl" not in line]
        assert 0 < len(alone) < len(lines)
        assert all(line["loss"] == pytest.approx(weight * line["cross_entropy"], rel=1e-5) for line in alone)
        assert all(("cross_entropy" in line) == (cross > 0) for line in lines if line not in alone)
    mixed = train(
        changed(tiny_model, 4),
        store,
        tmp_path / "one",
        recipe_with(batch_tokens=9999, joint={"losses": "cross_entropy"}),
    )
    rows = sum(store.examples[number].rows for number in given)
    for line in mixed:
        taught = (store.rows - rows) * line["forward_kl"] + rows * line["cross_entropy"]
        assert line["loss"] == pytest.approx(taught / store.rows, rel=1e-4)


class Extra(Companion):
    """Adds a small loss to every step."""

    def __init__(self, student: PreTrainedModel) -> None:
        self.student = student

    def losses(self) -> dict[str, Tensor]:
        return {"extra": 0.01 * self.student.get_output_embeddings().weight.square().sum()}


class Scribe(Companion):
    """Notes every call; may give a batch of its own."""

    def __init__(self, name: str, calls: list[tuple], own: tuple[Batch, Rows] | None = None) -> None:
        self.name, self.calls, self.own = name, calls, own

    def begin_step(self, step: int, progress: float) -> None:
        self.calls.append((self.name, "begin", step, progress))

    def batch(self) -> tuple[Batch, Rows] | None:
        self.calls.append((self.name, "batch"))
        return self.own

    def losses(self) -> dict[str, Tensor]:
        self.calls.append((self.name, "losses"))
        return {}

    def end(self) -> dict[str, Any]:
        self.calls.append((self.name, "end"))
        return {self.name: len(self.calls)}


def own_batch(store: SignalStore, numbers: list[int]) -> tuple[Batch, Rows]:
    return collate(store.examples, numbers), store.rows_of(numbers)


def test_companions_are_asked_in_order(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    calls: list[tuple] = []
    companions = [Scribe("a", calls), Scribe("b", calls)]
    lines = train(
        changed(tiny_model, 5), store, tmp_path / "run", recipe_with(epochs=1.0, accumulation=2), companions=companions
    )
    assert len(lines) > 1
    assert calls[:8] == [
        ("a", "begin", 0, 1 / len(lines)),
        ("b", "begin", 0, 1 / len(lines)),
        ("a", "batch"),
        ("b", "batch"),
        ("a", "losses"),
        ("b", "losses"),
        ("a", "batch"),
        ("b", "batch"),
    ]
    assert [call[2:] for call in calls if call[:2] == ("a", "begin")] == [
        (step, pytest.approx((step + 1) / len(lines))) for step in range(len(lines))
    ]
    assert calls[-2:] == [("a", "end"), ("b", "end")]
    assert sum(call == ("a", "losses") for call in calls) == len(lines)


def test_a_replaced_batch_weighs_as_much_as_the_one_it_replaces(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    recipe = recipe_with(epochs=1.0, batch_tokens=9999)
    students = [changed(tiny_model, 6) for _ in range(3)]
    everything = list(range(len(store)))
    found = [
        train(student, store, tmp_path / str(place), recipe, companions=[Scribe("own", [], own_batch(store, numbers))])
        for place, (student, numbers) in enumerate(zip(students, ([4], [4, 4], everything), strict=True))
    ]
    assert found[0][0]["loss"] == pytest.approx(found[1][0]["loss"], rel=1e-5)
    assert largest_difference(students[0], students[1]) < 1e-5
    cached = changed(tiny_model, 6)
    lines = train(cached, store, tmp_path / "cached", recipe)
    assert found[2][0]["loss"] == pytest.approx(lines[0]["loss"], rel=1e-5)
    assert found[0][0]["loss"] != pytest.approx(lines[0]["loss"], rel=1e-2)
    assert largest_difference(students[2], cached) < 1e-5


def test_text_of_the_student_is_not_imitated(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    recipe = recipe_with(epochs=1.0, losses={"forward_kl": 1.0, "cross_entropy": 1.0})
    own = Scribe("own", [], own_batch(store, [1, 2]))
    lines = train(changed(tiny_model, 7), store, tmp_path / "run", recipe, companions=[own])
    assert all("cross_entropy" not in line and line["forward_kl"] > 0 for line in lines)


def test_an_extra_loss_is_added_once_a_step_and_told(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    recipe = recipe_with(epochs=1.0, accumulation=3)
    student = changed(tiny_model, 8)
    value = float(Extra(student).losses()["extra"].detach())
    lines = train(student, store, tmp_path / "run", recipe, companions=[Extra(student)])
    assert lines[0]["extra"] == pytest.approx(value, rel=1e-5)
    assert lines[0]["loss"] == pytest.approx(lines[0]["forward_kl"] + value, rel=1e-4)
