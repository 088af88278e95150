"""On-policy: what the student wrote is what the teacher read, and it comes as often as the recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_store import build_store
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from potstill.distill.current import Request
from potstill.distill.notes import StepNotes
from potstill.distill.on_policy import OnPolicy, TeacherReader, open_on_policy
from potstill.distill.questions import Questions
from potstill.models.anatomy import head_weight
from potstill.models.completion import Reply
from potstill.models.conversation import answer_ids, question_ids
from potstill.problem import Problem
from potstill.prompts import Prompt
from potstill.recipe import OnPolicySection, validate_recipe
from potstill.run import Run
from potstill.signals.formats import HiddenRows
from potstill.vocab.map import VocabMap

TEXTS = ("今天天气很好", "请帮我写一封邮件", "你好", "hello")
PROMPTS = [Prompt(f"p{number}", text, "test", "test", "train") for number, text in enumerate(TEXTS)]


@dataclass
class Scripted:
    """A writer that counts: the words of a reply say which one it is."""

    asked: list[Sequence[Request]] = field(default_factory=list)

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked.append(requests)
        return [
            Reply(f"第{len(self.asked)}次天气很好" * (1 + place), "stop", 5, 7, 0.0, 0.0, ())
            for place in range(len(requests))
        ]


def companion(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, **settings: Any) -> OnPolicy:
    section = OnPolicySection.model_validate({"share": 0.5, "every": 5, "questions": 3, "max_tokens": 40} | settings)
    head = head_weight(teacher).detach()
    return OnPolicy(
        tokenizer,
        section,
        Questions.that_fit(PROMPTS, tokenizer, 128, section.max_tokens, seed=1),
        Scripted(),
        TeacherReader(teacher, torch.arange(len(head)), head, batch_tokens=64),
        context=128,
        batch_tokens=60,
        seed=1,
        notes=StepNotes(folder / "notes.json"),
        tell=lambda text: None,
    )


def drawn(one: OnPolicy, step: int, micro_batches: int = 4) -> list[str]:
    one.begin_step(step, 0.0)
    return [str(found and found[0]["input_ids"].tolist()) for found in (one.batch() for _ in range(micro_batches))]


def test_a_micro_batch_holds_the_student_s_words_and_what_the_teacher_thought_of_them(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    one = companion(tiny_model, tiny_tokenizer, tmp_path, share=1.0)
    one.begin_step(0, 0.0)
    chosen = one.questions.draw(0, 3)
    expected = {
        tuple(
            question_ids(tiny_tokenizer, question.prompt.text) + answer_ids(tiny_tokenizer, "第1次天气很好" * n, True)
        )
        for n, question in enumerate(chosen, 1)
    }
    seen = set()
    for _ in range(40):
        found = one.batch()
        assert found is not None
        batch, rows = found
        assert isinstance(rows, HiddenRows)
        ids = batch["input_ids"]
        with torch.no_grad():
            logits = tiny_model(ids).logits.flatten(0, 1)[batch["rows"]]
        assert len(rows) == len(batch["labels"]) == len(logits)
        assert torch.equal(ids.flatten()[batch["rows"] + 1], batch["labels"])
        assert rows.divergence(logits, slice(None), 2.0).abs().max() < 1e-4
        seen |= {tuple(row) for row in ids.tolist()}
    assert len(seen) == 3
    for row in seen:
        assert any(row[: len(known)] == known and not any(row[len(known) :]) for known in expected)


def test_its_rows_can_be_learnt_from(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """What inference mode leaves can't be: a backward pass would refuse it."""
    one = companion(tiny_model, tiny_tokenizer, tmp_path, share=1.0)
    one.begin_step(0, 0.0)
    found = one.batch()
    assert found is not None
    logits = torch.zeros(len(found[1]), len(one.reader.head), requires_grad=True)
    found[1].divergence(logits, slice(None), 1.0).sum().backward()
    assert logits.grad is not None and logits.grad.abs().max() > 0


def test_share_is_a_chance_and_the_step_decides(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    one = companion(tiny_model, tiny_tokenizer, tmp_path, every=1000, share=0.25)
    whole = [drawn(one, step) for step in range(100)]
    own = np.array([text != "None" for step in whole for text in step])
    assert 0.17 < own.mean() < 0.33
    assert one.end()["on_policy"]["micro_batches"] == own.sum()
    (tmp_path / "again").mkdir()
    again = companion(tiny_model, tiny_tokenizer, tmp_path / "again", every=1000, share=0.25)
    drawn(again, 0)
    assert [drawn(again, step) for step in (40, 41)] == whole[40:42]
    never = companion(tiny_model, tiny_tokenizer, tmp_path, share=0.0)
    assert drawn(never, 0) == ["None"] * 4


def test_writings_come_every_so_many_steps_and_at_once_after_a_resume(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    one = companion(tiny_model, tiny_tokenizer, tmp_path)
    for step in range(8):
        one.begin_step(step, 0.0)
    assert len(one.writer.asked) == 2
    assert one.writer.asked[0] != one.writer.asked[1]
    resumed = companion(tiny_model, tiny_tokenizer, tmp_path)
    resumed.begin_step(8, 0.0)
    assert len(resumed.writer.asked) == 1
    resumed.begin_step(9, 0.0)
    assert len(resumed.writer.asked) == 1
    found = resumed.end()["on_policy"]
    assert (found["writings"], found["answers"], found["tokens_written"]) == (3, 9, 63)
    assert found["tokens_read"] > found["tokens_written"]


def test_a_step_that_says_nothing_readable_leaves_the_cached_batches(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = companion(tiny_model, tiny_tokenizer, tmp_path, share=1.0)
    nothing = Reply("", "length", 5, 1, 0.0, 0.0, ())
    monkeypatch.setattr(one.writer, "write", lambda requests: [nothing] * len(requests))
    one.begin_step(0, 0.0)
    assert one.batch() is None


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose teacher is nowhere: a refusal has to come before it is looked for."""
    (tmp_path / "run" / "vocab").mkdir(parents=True)
    recipe = validate_recipe({"name": "t", "distill": {"on_policy": {"share": 0.5}}}, "test")
    return Run(tmp_path / "run", recipe, home=tmp_path / "home")


def test_a_vocabulary_of_its_own_is_refused(tiny_model: PreTrainedModel, run: Run, tmp_path: Path) -> None:
    store = build_store(tiny_model, tmp_path / "s", "hidden")
    store.form = replace(store.form, kind="bound")
    with pytest.raises(Problem, match="vocabulary of its own"):
        open_on_policy(run, tmp_path, tiny_model, store, torch.float32, lambda text: None)


def test_signals_without_the_teacher_s_head_are_refused(tiny_model: PreTrainedModel, run: Run, tmp_path: Path) -> None:
    VocabMap.from_kept(range(608)).save(run.folder / "vocab" / "vocab_map.safetensors")
    store = build_store(tiny_model, tmp_path / "s", "topk")
    (store.folder / "head.safetensors").unlink()
    with pytest.raises(Problem, match="head"):
        open_on_policy(run, tmp_path, tiny_model, store, torch.float32, lambda text: None)
