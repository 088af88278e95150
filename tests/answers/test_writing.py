"""Tests of the stage `answers`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from answers.fakes import TEMPLATE_TOKENS, World, lines_of, own, run_with
from potstill.answers import read_answers, write_answers, writers, writing
from potstill.models.teacher import Teacher
from potstill.problem import Problem
from potstill.progress import Task
from potstill.prompts import Prompt, golden, write_prompts
from potstill.recipe import AnswersSection
from potstill.run import Run, read_json

CONTEXT = {"context": 128, "max_tokens": 64}


def built(run: Run) -> Path:
    """Do the stage as the conductor does; returns its folder."""
    with run.building("answers", "1") as folder:
        write_answers(run, folder)
    return run.stage("answers")


def test_every_prompt_is_answered_in_order(tmp_path: Path, world: World) -> None:
    prompts = own(5)
    run = run_with(tmp_path, prompts, answers={"temperature": 0.5})
    folder = built(run)
    answers = read_answers(folder / "answers.jsonl")
    assert [one.prompt for one in answers] == prompts
    assert sorted(file.name for file in folder.iterdir()) == ["answers.jsonl", "report.json"]
    for one in answers:
        assert one.sampling is not None
        assert one.text == f"{one.prompt.text}{one.sampling['seed']}"
        assert one.sampling["temperature"] == 0.5 and 0 <= one.sampling["seed"] < 2**31
    report = read_json(folder / "report.json")
    assert report["answers"] == 5 and report["tokens"] == sum(one.tokens for one in answers)
    assert report["finish"] == {"stop": 2, "length": 3, "given": 0}
    assert report["origin"] == {"written": 5, "written_before": 0, "shipped": 0, "given": 0}


def test_seed_depends_on_recipe_and_prompt_alone(tmp_path: Path, world: World) -> None:
    def seeds(name: str, prompts: list[Prompt], seed: int) -> dict[str, Any]:
        folder = built(run_with(tmp_path / name, prompts, seed=seed))
        return {one.prompt.id: (one.sampling or {})["seed"] for one in read_answers(folder / "answers.jsonl")}

    first = seeds("a", own(4), 1)
    assert len(set(first.values())) == 4
    assert seeds("b", own(4)[::-1][:2], 1) == {name: first[name] for name in ("own-2", "own-3")}
    assert not set(seeds("c", own(4), 2).values()) & set(first.values())


@pytest.mark.parametrize("dies_after", range(6))
@pytest.mark.parametrize("torn", ["", '{"prompt": {"id": "own'])
def test_killed_and_resumed_equals_not_killed(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, dies_after: int, torn: str
) -> None:
    monkeypatch.setattr(writers, "WINDOW", 4)
    whole = built(run_with(tmp_path / "whole", own(6))) / "answers.jsonl"
    world.asked, world.dies_after = [], dies_after
    run = run_with(tmp_path / "killed", own(6))
    with pytest.raises(KeyboardInterrupt):
        built(run)
    with (run.partial("answers") / "answers.part.jsonl").open("a") as file:
        file.write(torn)
    world.dies_after = None
    resumed = built(run)
    assert (resumed / "answers.jsonl").read_bytes() == whole.read_bytes()
    assert sorted(world.asked) == sorted(one.text for one in own(6)), "something was asked twice or never"
    assert read_json(resumed / "report.json")["origin"]["written_before"] == dies_after


def test_finished_answers_to_other_texts_are_not_kept(tmp_path: Path, world: World) -> None:
    world.dies_after = 2
    run = run_with(tmp_path, own(3))
    with pytest.raises(KeyboardInterrupt):
        built(run)
    world.dies_after = None
    changed = [own(3)[0], replace(own(3)[1], text="别的问题"), own(3)[2]]
    write_prompts(run.stage("prompts") / "prompts.jsonl", changed)
    assert [one.prompt for one in read_answers(built(run) / "answers.jsonl")] == changed


def test_given_answers_are_taken_and_not_asked_for(tmp_path: Path, world: World) -> None:
    prompts = [replace(one, given="给定的答案") if place == 1 else one for place, one in enumerate(own(3))]
    folder = built(run_with(tmp_path, prompts))
    answers = read_answers(folder / "answers.jsonl")
    assert (answers[1].text, answers[1].finish, answers[1].tokens, answers[1].sampling) == (
        "给定的答案",
        "given",
        5,
        None,
    )
    assert len(world.asked) == 2 and prompts[1].text not in world.asked


def test_prompts_too_long_are_told_before_anything_is_written(tmp_path: Path, world: World) -> None:
    limit = CONTEXT["context"] - writing.ROOM - TEMPLATE_TOKENS
    prompts = [replace(one, text="长" * (limit + place)) for place, one in enumerate(own(3))]
    with pytest.raises(Problem) as caught:
        built(run_with(tmp_path, prompts, answers=CONTEXT))
    message = str(caught.value)
    assert message.startswith("2 prompts are longer than 96 tokens, all that answers.context = 128 has room for")
    assert "own-1 (own.txt:2): 97 tokens" in message and "own-2 (own.txt:3): 98 tokens" in message
    assert "own-0" not in message and "answers.context" in message and "--skip-bad" in message
    assert world.asked == []


def test_prompts_too_long_are_left_out_and_counted_where_the_recipe_says_so(tmp_path: Path, world: World) -> None:
    prompts = [*own(2), replace(own(3)[2], text="长" * 200)]
    run = run_with(tmp_path, prompts, answers=CONTEXT, prompts={"skip_bad": True})
    folder = built(run)
    assert [one.prompt for one in read_answers(folder / "answers.jsonl")] == prompts[:2]
    assert read_json(folder / "report.json")["too_long"] == [{"id": "own-2", "source": "own.txt:3", "tokens": 210}]
    assert "1 prompts too long and left out" in lines_of(run)[-1]


def test_empty_replies_are_counted_and_not_asked_for_again(tmp_path: Path, world: World) -> None:
    prompts = own(4)
    world.silent = {prompts[3].text}
    world.dies_after = 2  # the last prompt is asked first
    run = run_with(tmp_path, prompts)
    with pytest.raises(KeyboardInterrupt):
        built(run)
    world.dies_after = None
    folder = built(run)
    assert [one.prompt for one in read_answers(folder / "answers.jsonl")] == prompts[:3]
    assert read_json(folder / "report.json")["empty"] == ["own-3"]
    assert "1 empty ones left out" in lines_of(run)[-1]
    assert world.asked.count(prompts[3].text) == 1


def test_teacher_with_nothing_to_say(tmp_path: Path, world: World) -> None:
    world.silent = {one.text for one in own(2)}
    with pytest.raises(Problem, match=r"No training prompt has an answer \(2 came back empty"):
        built(run_with(tmp_path, own(2)))


def test_without_shipped_answers_golden_prompts_are_asked(tmp_path: Path, world: World) -> None:
    run = run_with(tmp_path, golden()[:3])
    built(run)
    assert len(world.asked) == 3
    assert "not using the shipped ones" in lines_of(run)[0]


def test_the_real_engine_writes_the_same_after_a_kill(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one slot: with more, rounding depends on which answers happen to be written together."""
    teacher = SimpleNamespace(name="tiny", gguf=tiny_gguf, sha256="0" * 64)
    monkeypatch.setattr("potstill.models.teacher.find_teacher", lambda *_: teacher)
    settings = {"context": 128, "max_tokens": 12, "slots": 1, "temperature": 1.0}
    whole = built(run_with(tmp_path / "whole", own(4), answers=settings)) / "answers.jsonl"
    run = run_with(tmp_path / "killed", own(4), answers=settings)
    run.progress = _Deadly(2)
    with pytest.raises(KeyboardInterrupt):
        built(run)
    run.progress = _Deadly(100)
    assert (built(run) / "answers.jsonl").read_bytes() == whole.read_bytes()
    assert read_json(run.stage("answers") / "report.json")["origin"]["written_before"] == 2


@pytest.mark.parametrize("dies_after", [1, 4, 9])
def test_batches_are_written_the_same_after_a_kill(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    """A batch that was cut short is written again as a whole: rounding depends on who is in it."""
    teacher = SimpleNamespace(name="tiny", checkpoint=tiny_checkpoint, sha256="0" * 64)
    monkeypatch.setattr("potstill.models.teacher.find_teacher", lambda *_: teacher)
    monkeypatch.setattr("potstill.models.batch_writing.MOST_TEXTS", 4)
    monkeypatch.setattr("potstill.machine.fastest_dtype", lambda: "float32")  # a probe: not twice the same
    settings = {"context": 128, "max_tokens": 12, "temperature": 1.0, "writer": "together"}
    whole = built(run_with(tmp_path / "whole", own(10), answers=settings))
    assert {one.finish for one in read_answers(whole / "answers.jsonl")} <= {"stop", "length"}
    run = run_with(tmp_path / "killed", own(10), answers=settings)
    run.progress = _Deadly(dies_after)
    with pytest.raises(KeyboardInterrupt):
        built(run)
    run.progress = _Deadly(100)
    resumed = built(run)
    assert (resumed / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
    origin = read_json(resumed / "report.json")["origin"]
    assert origin["written_before"] == dies_after // 4 * 4 and origin["written"] == 10 - origin["written_before"]


@pytest.mark.parametrize(
    ("writer", "prompts", "slots"), [("fastest", 3, True), ("fastest", 8, False), ("slots", 8, True)]
)
def test_a_few_answers_are_llama_cpps_and_many_are_not(
    tmp_path: Path, tiny_gguf: Path, tiny_checkpoint: Path, writer: str, prompts: int, slots: bool
) -> None:
    teacher = Teacher("tiny", tiny_checkpoint, tiny_gguf, "0" * 64, "here", "apache-2.0")
    settings = AnswersSection.model_validate({"writer": writer, "context": 128, "max_tokens": 12})
    with writers.open_writer(teacher, settings, prompts) as opened:
        assert isinstance(opened, writers.Slots) == slots


class _Deadly:
    """Progress that dies when its writing bar has moved that many times."""

    def __init__(self, moves: int) -> None:
        self.moves = moves

    def say(self, line: str) -> None:
        pass

    def task(self, label: str, total: float | None, unit: str) -> Any:
        return _DeadlyTask(self.moves if unit == "answers" else 10_000)


class _DeadlyTask(Task):
    def __init__(self, moves: int) -> None:
        self.moves = moves

    def __enter__(self) -> _DeadlyTask:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, amount: float = 1) -> None:
        self.moves -= 1
        if not self.moves:
            raise KeyboardInterrupt

    def resume(self, amount: float) -> None:
        self.advance(amount)

    def describe(self, text: str) -> None:
        pass
