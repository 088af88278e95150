"""The student's words by its weights of the moment, and a student that stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from potstill.distill.current import CurrentWriter
from potstill.distill.questions import Questions
from potstill.distill.trained import plain_copy, prepare_student
from potstill.models.bulk import BulkWriter
from potstill.problem import Problem
from potstill.prompts import Prompt
from potstill.recipe import validate_recipe

TEXTS = ("今天天气很好", "请帮我写一封邮件", "你好", "hello")
PROMPTS = [Prompt(f"p{number}", text, "test", "test", "train") for number, text in enumerate(TEXTS)]


@pytest.fixture
def questions(tiny_tokenizer: PreTrainedTokenizerFast) -> Questions:
    return Questions.that_fit(PROMPTS, tiny_tokenizer, context=128, max_tokens=12, seed=3)


def texts(student: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Questions) -> list[str]:
    requests = questions.requests(questions.known, 0, 2, 1.0)
    replies = CurrentWriter(student, tokenizer, torch.float32).write(requests)
    return [reply.text for reply in replies]


def test_it_writes_what_the_weights_of_this_moment_say(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, questions: Questions
) -> None:
    requests = questions.requests(questions.known, 0, 2, 1.0)
    writer = BulkWriter(copy.deepcopy(tiny_model).eval(), tiny_tokenizer)
    seeds = [sampling.seed for _, sampling in requests]
    expected = dict(writer.batch([messages for messages, _ in requests], requests[0][1], seeds))
    tiny_model.train()
    before = texts(tiny_model, tiny_tokenizer, questions)
    assert before == [expected[place].text for place in range(len(requests))]
    assert before[0] != before[1]  # a seed of its own for every answer
    assert tiny_model.training and all(weight.requires_grad for weight in tiny_model.parameters())
    with torch.no_grad():
        for weight in tiny_model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    assert texts(tiny_model, tiny_tokenizer, questions) != before


@pytest.mark.parametrize("trained", ["all", "feed-forward"])
def test_the_student_keeps_its_own_weights_and_their_format(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, questions: Questions, trained: str
) -> None:
    prepare_student(tiny_model, validate_recipe({"name": "t", "distill": {"trained": trained}}, "test").distill)
    before = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    places = {name: weight.data_ptr() for name, weight in tiny_model.named_parameters()}
    CurrentWriter(tiny_model, tiny_tokenizer, torch.bfloat16).write(questions.requests(questions.known, 0, 1, 1.0))
    for name, weight in tiny_model.named_parameters():
        assert weight.dtype == torch.float32 and weight.data_ptr() == places[name]
        assert torch.equal(weight, before[name])


def test_adapters_speak_too(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, questions: Questions
) -> None:
    pytest.importorskip("peft")
    before = texts(tiny_model, tiny_tokenizer, questions)
    section = validate_recipe({"name": "t", "distill": {"trained": "lora"}}, "test").distill
    prepare_student(tiny_model, section)
    with torch.no_grad():
        for name, weight in tiny_model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    adapted = texts(tiny_model, tiny_tokenizer, questions)
    assert adapted != before
    assert adapted == texts(plain_copy(tiny_model), tiny_tokenizer, questions)
    assert any("lora_B" in name for name, _ in tiny_model.named_parameters())


def test_a_step_draws_the_same_questions_and_seeds_again_and_another_step_others(questions: Questions) -> None:
    def drawn(step: int) -> object:
        return questions.requests(questions.draw(step, 2), step, 3, 0.9)

    assert drawn(5) == drawn(5)
    assert len({str(drawn(step)) for step in range(6)}) == 6
    chosen = questions.draw(5, 2)
    requests = questions.requests(chosen, 5, 3, 0.9)
    assert [messages[0]["content"] for messages, _ in requests] == [q.prompt.text for q in chosen for _ in range(3)]
    assert len({sampling.seed for _, sampling in requests}) == 6
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
