"""The student's words by its weights of the moment, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from potstill.distill.current import FOLDER, CurrentEngine
from potstill.distill.questions import Questions
from potstill.distill.trained import plain_copy, prepare_student
from potstill.models.gguf import write_gguf
from potstill.models.team import Team
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.prompts import Prompt
from potstill.recipe import validate_recipe

TEXTS = ("今天天气很好", "请帮我写一封邮件", "你好", "hello")
PROMPTS = [Prompt(f"p{number}", text, "test", "test", "train") for number, text in enumerate(TEXTS)]


@pytest.fixture
def questions(tiny_tokenizer: PreTrainedTokenizerFast) -> Questions:
    return Questions.that_fit(PROMPTS, tiny_tokenizer, context=128, max_tokens=12, seed=3)


def texts(student: PreTrainedModel, tokenizer: Path, folder: Path, questions: Questions) -> list[str]:
    requests, context = questions.requests(questions.known, 0, 2, 1.0)
    replies = CurrentEngine(student, tokenizer, folder).write(requests, context)
    assert not list(folder.iterdir())
    return [reply.text for reply in replies]


def test_it_writes_what_the_weights_of_this_moment_say(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_tokenizer_dir: Path,
    tmp_path: Path,
    questions: Questions,
) -> None:
    tiny_model.half().float()  # numbers that every file holds exactly
    tiny_model.save_pretrained(tmp_path / "saved")
    tiny_tokenizer.save_pretrained(tmp_path / "saved")
    write_gguf(tmp_path / "saved", tmp_path / "saved.gguf", "F16", metadata={}, progress=Silent())
    requests, context = questions.requests(questions.known, 0, 2, 1.0)
    with Team(tmp_path / "saved.gguf", context=context, members=1) as team:
        expected = dict(team.write(requests))
    tiny_model.train()
    (tmp_path / "run").mkdir()
    before = texts(tiny_model, tiny_tokenizer_dir, tmp_path / "run", questions)
    assert before == [expected[place].text for place in range(len(requests))]
    assert before[0] != before[1]  # a seed of its own for every answer
    assert tiny_model.training and all(weight.requires_grad for weight in tiny_model.parameters())
    with torch.no_grad():
        for weight in tiny_model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    assert texts(tiny_model, tiny_tokenizer_dir, tmp_path / "run", questions) != before


def test_adapters_speak_too(
    tiny_model: PreTrainedModel, tiny_tokenizer_dir: Path, tmp_path: Path, questions: Questions
) -> None:
    pytest.importorskip("peft")
    before = texts(tiny_model, tiny_tokenizer_dir, tmp_path, questions)
    section = validate_recipe({"name": "t", "distill": {"trained": "lora"}}, "test").distill
    prepare_student(tiny_model, section)
    with torch.no_grad():
        for name, weight in tiny_model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    adapted = texts(tiny_model, tiny_tokenizer_dir, tmp_path, questions)
    assert adapted != before
    assert adapted == texts(plain_copy(tiny_model), tiny_tokenizer_dir, tmp_path, questions)
    assert any("lora_B" in name for name, _ in tiny_model.named_parameters())


def test_what_a_killed_process_left_is_gone_at_the_next_start(
    tiny_model: PreTrainedModel, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "student-F16.gguf").write_bytes(b"half")
    CurrentEngine(tiny_model, tiny_tokenizer_dir, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_where_the_writing_fails(
    tiny_model: PreTrainedModel, tiny_tokenizer_dir: Path, tmp_path: Path, questions: Questions
) -> None:
    requests, _ = questions.requests(questions.known, 0, 1, 1.0)
    with pytest.raises(Problem, match="context of 4"):
        CurrentEngine(tiny_model, tiny_tokenizer_dir, tmp_path).write(requests, 4)
    assert not list(tmp_path.iterdir())


def test_a_step_draws_the_same_questions_and_seeds_again_and_another_step_others(questions: Questions) -> None:
    def drawn(step: int) -> object:
        return questions.requests(questions.draw(step, 2), step, 3, 0.9)

    assert drawn(5) == drawn(5)
    assert len({str(drawn(step)) for step in range(6)}) == 6
    chosen = questions.draw(5, 2)
    requests, context = questions.requests(chosen, 5, 3, 0.9)
    assert [messages[0]["content"] for messages, _ in requests] == [q.prompt.text for q in chosen for _ in range(3)]
    assert len({sampling.seed for _, sampling in requests}) == 6
    assert context == max(question.tokens for question in chosen) + 12
    assert {question.prompt.id for step in range(20) for question in questions.draw(step, 2)} == {
        "p0",
        "p1",
        "p2",
        "p3",
    }


def test_only_training_questions_with_room_for_an_answer_are_asked(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    held_out = Prompt("h", "你好", "test", "test", "held-out")
    long = Prompt("l", "今天天气很好" * 30, "test", "test", "train")
    known = Questions.that_fit([held_out, long, *PROMPTS], tiny_tokenizer, 128, 12, 0).known
    assert [question.prompt.id for question in known] == ["p0", "p1", "p2", "p3"]
    with pytest.raises(Problem, match=r"signals\.context = 128"):
        Questions.that_fit([held_out, long], tiny_tokenizer, 128, 12, 0)
