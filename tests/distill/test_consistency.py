"""Consistency: the reward, its baseline and its gradient by hand; a tiny model that really grows more consistent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from potstill.distill.consistency import Consistency, advantages, agreement, policy_gradient_loss
from potstill.distill.current import CurrentWriter, Request, Writer
from potstill.distill.notes import StepNotes
from potstill.distill.questions import Questions
from potstill.distill.trained import prepare_student
from potstill.models.completion import Reply
from potstill.models.conversation import answer_ids, question_ids
from potstill.prompts import Prompt
from potstill.recipe import ConsistencySection, validate_recipe
from tiny import by_characters

PROMPTS = [Prompt(f"p{n}", text, "test", "test", "train") for n, text in enumerate(("今天天气很好", "你好", "hello"))]


@dataclass
class Scripted:
    """A writer that says what it was told to, again and again."""

    says: Sequence[tuple[str, str]]
    asked: list[Sequence[Request]] = field(default_factory=list)

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked.append(requests)
        return [Reply(*self.says[place % len(self.says)], 5, 3, 0.0, 0.0, ()) for place in range(len(requests))]


def companion(
    student: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, writer: Writer, folder: Path, **settings: Any
) -> Consistency:
    section = ConsistencySection.model_validate(
        {"weight": 1.0, "every": 2, "questions": 1, "samples": 3, "max_tokens": 12} | settings
    )
    return Consistency(
        student,
        tokenizer,
        section,
        Questions.that_fit(PROMPTS, tokenizer, 128, section.max_tokens, seed=1),
        writer,
        partial(by_characters, size=61),  # so few that answers often agree a little
        dtype=torch.float32,
        batch_tokens=80,
        chunk_rows=4,
        notes=StepNotes(folder / "notes.json"),
        tell=lambda text: None,
    )


def test_the_loss_by_hand_and_its_gradient() -> None:
    scores = torch.tensor([[-1.0, -3.0, float("nan")], [-2.0, 9.0, 9.0], [7.0, 7.0, 7.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    gained = torch.tensor([0.5, -0.25, 8.0], requires_grad=True)
    loss = policy_gradient_loss(scores, mask, gained)
    # -(0.5 · -2 + -0.25 · -2 + 8 · 0) / 3
    assert loss.item() == pytest.approx(0.5 / 3)
    loss.backward()
    expected = [[-0.5 / 2 / 3, -0.5 / 2 / 3, 0.0], [0.25 / 3, 0.0, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(scores.grad, torch.tensor(expected))
    assert gained.grad is None


def test_agreement_is_the_mean_cosine_to_the_others() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert agreement(vectors) == pytest.approx([0.3, 0.4, 0.7])


def test_saying_nothing_agrees_with_nothing() -> None:
    assert agreement(np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])) == pytest.approx([1 / 3, 0, 1 / 3, 0])
    assert agreement(np.zeros((3, 0))).tolist() == [0.0, 0.0, 0.0]


def test_the_baseline_leaves_one_out() -> None:
    assert advantages(np.array([0.1, 0.4, 0.7])) == pytest.approx([0.1 - 0.55, 0.0, 0.7 - 0.25])
    assert advantages(np.full(5, 0.85)).tolist() == pytest.approx([0.0] * 5)


def test_it_is_the_unbiased_baseline_scaled() -> None:
    """Against the mean similarity among the others, which this answer has no part in."""
    vectors = np.random.default_rng(0).standard_normal((5, 7))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rewards = agreement(vectors)
    without = np.array([agreement(np.delete(vectors, place, axis=0)).mean() for place in range(5)])
    assert advantages(rewards) == pytest.approx((5 - 2) / (5 - 1) * (rewards - without))


def test_rewards_are_clipped(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    alike = Scripted([("天气", "stop"), ("天气", "stop"), ("天气好", "length")])
    one = companion(tiny_model, tiny_tokenizer, alike, tmp_path, clip=0.5)
    one.begin_step(0, 0.0)
    assert one.losses() == {}  # all beyond the clip: none is better than another
    found = one.end()["consistency"]
    assert found["similarity_before"] > 0.7
    assert found["reward_before"] == pytest.approx(0.5)
    (tmp_path / "again").mkdir()
    freer = companion(tiny_model, tiny_tokenizer, alike, tmp_path / "again", clip=1.0)
    freer.begin_step(0, 0.0)
    assert set(freer.losses()) == {"consistency"}


def test_log_probabilities_and_gradient_are_those_of_the_plain_way(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    says = [("天气很好，去公园", "stop"), ("天气", "length"), ("", "stop")]
    one = companion(tiny_model, tiny_tokenizer, Scripted(says), tmp_path, temperature=0.7, weight=3.0)
    one.begin_step(0, 0.0)
    loss = one.losses()["consistency"]
    loss.backward()
    gradients = [weight.grad.clone() for weight in tiny_model.parameters()]
    tiny_model.zero_grad()

    prompt = one.questions.draw(0, 1)[0].prompt
    question = question_ids(tiny_tokenizer, prompt.text)
    means = []
    for text, finish in says:
        answer = answer_ids(tiny_tokenizer, text, ended=finish == "stop")
        logits = tiny_model(torch.tensor([question + answer])).logits[0, len(question) - 1 : -1]
        scores = (logits.float() / 0.7).log_softmax(-1)[range(len(answer)), answer]
        means.append(scores.mean())
    cosine = by_characters(["天气很好，去公园"])[0] @ by_characters(["天气"])[0] / (8**0.5 * 2**0.5)
    gained = torch.from_numpy(advantages(np.array([cosine / 2, cosine / 2, 0.0])))
    expected = -3.0 * (gained * torch.stack(means)).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    expected.backward()
    for gradient, weight in zip(gradients, tiny_model.parameters(), strict=True):
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-6)


def test_it_is_due_every_so_many_steps_and_only_then(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    writer = Scripted([("天气", "stop"), ("公园", "stop"), ("天气公园", "stop")])
    one = companion(tiny_model, tiny_tokenizer, writer, tmp_path, every=3)
    due = []
    for step in range(7):
        one.begin_step(step, step / 7)
        due.append(bool(one.losses()))
    assert due == [True, False, False, True, False, False, True]
    assert len({str(requests) for requests in writer.asked}) == 3


def test_a_resumed_training_compares_with_the_first_sampling_of_all(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    first = companion(tiny_model, tiny_tokenizer, Scripted([("天", "stop"), ("好", "stop"), ("", "stop")]), tmp_path)
    first.begin_step(0, 0.0)
    writer = Scripted([("天", "stop")])
    resumed = companion(tiny_model, tiny_tokenizer, writer, tmp_path)
    for step in (2, 3, 4):
        resumed.begin_step(step, 0.5)
    found = resumed.end()["consistency"]
    assert writer.asked[-1] == first.writer.asked[0]
    assert (found["similarity_before"], found["similarity_after"]) == (0.0, pytest.approx(1.0))
    assert (found["empty_before"], found["empty_after"], found["answers_compared"]) == (1, 0, 3)
    assert (found["samplings"], found["answers"], found["tokens"]) == (3, 9, 27)


def test_without_a_step_there_is_nothing_to_report(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    assert companion(tiny_model, tiny_tokenizer, Scripted([("天", "stop")]), tmp_path).end() == {}


def test_the_gradient_raises_the_mean_similarity(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tiny_model.train()
    writer = CurrentWriter(tiny_model, tiny_tokenizer, torch.float32)
    one = companion(tiny_model, tiny_tokenizer, writer, tmp_path, every=1, questions=3, samples=8, clip=1.0)
    optimiser = torch.optim.Adam(tiny_model.parameters(), lr=1e-2)
    for step in range(6):
        one.begin_step(step, step / 6)
        for loss in one.losses().values():
            loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    found = one.end()["consistency"]
    assert tiny_model.training
    assert found["similarity_after"] > found["similarity_before"] + 0.1
    assert found["answers_compared"] == 24


def test_with_adapters_the_gradient_reaches_them_alone(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    prepare_student(tiny_model, validate_recipe({"name": "t", "distill": {"trained": "lora"}}, "test").distill)
    one = companion(
        tiny_model, tiny_tokenizer, Scripted([("天气", "stop"), ("公园", "stop"), ("天气公园", "stop")]), tmp_path
    )
    one.begin_step(0, 0.0)
    one.losses()["consistency"].backward()
    moved = {name for name, weight in tiny_model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert moved == {name for name, _ in tiny_model.named_parameters() if "lora_B" in name}
