"""Tests of prompts that the teacher makes up: the open slot, the loop, the stage, and the engines beneath."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from jinja2 import TemplateError

from listening import Listening
from potstill.models.engine import Messages, Reply, Sampling
from potstill.problem import Problem
from potstill.prompts import collect, golden, read_prompts
from potstill.prompts.evaluation import evaluation_sets
from potstill.prompts.ship import made_up_rows, read_attempts
from potstill.prompts.synthetic import Attempt, Made, Slot, next_round, open_user_slot, quotas
from potstill.recipe import Recipe, validate_recipe
from potstill.recipe.synthetic import SyntheticSection
from potstill.run import Run, read_json
from tiny import CHAT_TEMPLATE, PHI3_TEMPLATE

STEPS = ("煮饭", "洗碗", "拖地", "晒被子", "修灯", "换锁", "种花", "喂猫", "擦窗", "叠衣服", "通下水道", "收快递")
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] "
    "+ '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}{{ '[INST] ' + system + message['content'] + ' [/INST]' }}{% endfor %}"
)
SMOLLM2 = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM"
    "<|im_end|>\n' }}{% endif %}" + CHAT_TEMPLATE
)


def rendered(template: str) -> Callable[[Messages], str]:
    """A template as Transformers renders it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(messages: Messages) -> str:
        texts, _ = render_jinja_template([list(messages)], chat_template=template, add_generation_prompt=True)
        return str(texts[0])

    return render


@pytest.mark.parametrize(
    ("template", "slot"),
    [
        (CHAT_TEMPLATE, Slot("<|im_start|>system\n你是厨师。<|im_end|>\n<|im_start|>user\n", ("<|im_end|>",))),
        (SMOLLM2, Slot("<|im_start|>system\n你是厨师。<|im_end|>\n<|im_start|>user\n", ("<|im_end|>",))),
        (PHI3_TEMPLATE, Slot("<|system|>\n你是厨师。<|end|>\n<|user|>\n", ("<|end|>",))),
        (LLAMA2, Slot("[INST] <<SYS>>\n你是厨师。\n<</SYS>>\n\n", ("[/INST]",))),
    ],
    ids=["qwen", "smollm2", "phi3", "llama2"],
)
def test_the_template_is_cut_where_the_user_speaks(template: str, slot: Slot) -> None:
    assert open_user_slot(rendered(template), "你是厨师。") == slot


def test_without_a_system_message_the_templates_own_stays() -> None:
    assert "named SmolLM<|im_end|>" in open_user_slot(rendered(SMOLLM2), "").text
    llama = open_user_slot(rendered(LLAMA3), "").text
    assert llama == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"


def refusing(_: Messages) -> str:
    raise TemplateError("roles must alternate")


@pytest.mark.parametrize(
    ("render", "why"),
    [
        (
            rendered("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | upper | lower }}{% endfor %}"),
            "as",
        ),
        (rendered("<|user|>{{ messages[-1]['content'] }}{{ messages[-1]['content'] }}"), "doesn't give"),
        (rendered("<|user|>{{ messages[-1]['content'] }}"), "leaves out system messages"),
        (rendered("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"), "no mark before"),
        (refusing, "roles must alternate"),
    ],
)
def test_a_template_without_such_a_place_is_a_problem(render: Callable[[Messages], str], why: str) -> None:
    with pytest.raises(Problem, match=rf"{why}.*prompts\.synthetic\.count = 0"):
        open_user_slot(render, "你是厨师。")


KITCHEN = {"category": "everyday", "language": "zh", "systems": ["你是厨师。"], "openings": ["怎么"]}
SHELL = {"category": "code", "language": "zh", "systems": ["你会编程。", "你会Linux。"], "share": 2.0}
ENGLISH = {"category": "office", "language": "en", "openings": ["How do I", "Why"]}


def section(count: int, **fields: Any) -> SyntheticSection:
    return SyntheticSection.model_validate({"count": count, "kinds": [KITCHEN, SHELL, ENGLISH], **fields})


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100, 1001])
def test_quotas_add_up_and_keep_the_shares(count: int) -> None:
    found = quotas(section(count))
    assert sum(found.values()) == count
    assert all(abs(found[name] - count * part / 4) < 1 for name, part in zip(found, (1, 2, 1), strict=True))


def test_a_round_asks_for_what_is_lacking_and_ends_with_the_tries() -> None:
    settings = section(4, tries=2)
    kitchen, shell, english = settings.kinds
    assert next_round(settings, Made((), [], [])) == [(kitchen, 0), (shell, 0), (english, 0), (shell, 1)]
    attempts = [
        Attempt(kitchen, 0, "怎么煮饭？", 5, None),
        *(Attempt(shell, number, "…", 5, "short") for number in range(3)),
        *(Attempt(english, number, "…", 5, "short") for number in range(2)),
    ]
    assert next_round(settings, Made(attempts, [], [])) == [(shell, 3)]


def test_two_kinds_of_one_name_are_refused() -> None:
    with pytest.raises(Problem, match="everyday-zh is there twice"):
        validate_recipe({"name": "t", "prompts": {"synthetic": {"kinds": [KITCHEN, KITCHEN]}}}, "t.toml")


class World:
    """A teacher that writes what its tests want, and what it was asked."""

    def __init__(self, words: Callable[[str, int], str]) -> None:
        self.words, self.asked = words, list[str]()
        self.found = 0
        self.dies_after: int | None = None

    def find_teacher(self, name: str, home: Path, progress: object) -> SimpleNamespace:
        self.found += 1
        return SimpleNamespace(checkpoint=Path("teacher"), sha256="0" * 64)


class FakeWriter:
    """Writes five texts together, in reverse order; dies where its world says so."""

    def __init__(self, world: World) -> None:
        self.world = world

    def plan(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        return [list(range(begin, min(begin + 5, len(texts)))) for begin in range(0, len(texts), 5)]

    def batch(self, texts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, Reply]]:
        for place in reversed(range(len(texts))):
            if self.world.dies_after is not None and len(self.world.asked) >= self.world.dies_after:
                raise KeyboardInterrupt
            text = texts[place]
            self.world.asked.append(text)
            words = self.world.words(text, seeds[place])
            finish: Literal["stop", "length"] = "length" if words.endswith("…") else "stop"
            yield place, Reply(words, finish, len(text), len(words), 0.1, 0.2, (0.1,))


def plainly(messages: Messages) -> str:
    return "".join(f"<{turn['role']}>{turn['content']}</>" for turn in messages)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(various)
    monkeypatch.setattr("potstill.models.teacher.find_teacher", made.find_teacher)
    monkeypatch.setattr("potstill.models.teacher.load_tokenizer", lambda folder: None)
    monkeypatch.setattr("potstill.models.conversation.templated", lambda tokenizer, turns: plainly(turns))
    monkeypatch.setattr("potstill.prompts.synthetic._writer", lambda *_: FakeWriter(made))
    return made


def various(text: str, seed: int) -> str:
    """Something of every kind: sound ones, an answer, an unended one."""
    if seed % 5 == 0:
        return "当然可以！请告诉我你想知道什么。" if seed % 2 else "一直写下去，没有结尾…"
    if "厨师" in text or "编程" in text or "Linux" in text:
        return f"{STEPS[seed % 12]}以后再{STEPS[seed // 12 % 12]}要用{seed % 9973}分钟，怎样安排？"
    return f" {seed % 9973} write report {seed // 9973} for my {seed % 89} managers?"


def run_of(folder: Path, count: int, seed: int = 0, **fields: Any) -> Run:
    synthetic = {"count": count, "kinds": [KITCHEN, SHELL, ENGLISH], **fields}
    recipe = Recipe.model_validate({"name": "t", "seed": seed, "prompts": {"synthetic": synthetic}})
    return Run(folder, recipe, folder / "home", Listening())


def built(run: Run) -> Path:
    """Do the stage as the conductor does; returns its folder."""
    with run.building("prompts", "1") as folder:
        collect(run, folder)
    return run.stage("prompts")


def said(run: Run) -> list[str]:
    assert isinstance(run.progress, Listening)
    return run.progress.lines


def test_none_are_wanted_and_no_teacher_is_looked_for(tmp_path: Path, world: World) -> None:
    run = run_of(tmp_path, 0)
    folder = built(run)
    assert world.found == 0
    assert sorted(file.name for file in folder.iterdir()) == ["dropped.jsonl", "prompts.jsonl", "report.json"]
    assert "synthetic" not in read_json(folder / "report.json") and len(said(run)) == 1


def test_the_count_is_met_in_its_shares_and_everything_is_counted(tmp_path: Path, world: World) -> None:
    run = run_of(tmp_path, 40)
    folder = built(run)
    made = [one for one in read_prompts(folder / "prompts.jsonl") if one.source.startswith("synthetic:")]
    assert Counter(one.category for one in made) == {"everyday": 10, "code": 20, "office": 10}
    assert {one.split for one in made} == {"train"}
    assert all(one.text.startswith("怎么") for one in made if one.category == "everyday")
    assert all(one.text.startswith(("How do I ", "Why ")) for one in made if one.category == "office")
    report = read_json(folder / "report.json")
    told = report["synthetic"]
    assert told["kept"] == told["wanted"] == len(made) == report["sources"]["kept"]["synthetic"]
    assert told["written"] == told["kept"] + sum(told["fallen"].values()) == len(world.asked)
    assert told["fallen"]["answer"] and told["fallen"]["unended"]
    assert told["kinds"]["code-zh"] == {"wanted": 20, "kept": 20}
    assert set(told["examples"]) == {"everyday-zh", "code-zh", "office-en"}
    rows = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text("utf-8").splitlines()]
    assert Counter(row["outcome"] for row in rows) == {"kept": told["kept"], **told["fallen"]}
    assert told["tokens"] == sum(row["tokens"] for row in rows)
    assert f"40 of 40 wanted stay; fallen: unended: {told['fallen']['unended']}" in said(run)[-1]


def test_every_system_and_opening_is_drawn(tmp_path: Path, world: World) -> None:
    built(run_of(tmp_path, 40))
    asked = Counter(world.asked)
    assert any(text.startswith("<system>你会编程。") for text in asked)
    assert any(text.startswith("<system>你会Linux。") for text in asked)
    assert asked["<user>How do I"] and asked["<user>Why"]


def test_what_is_written_depends_on_seed_and_place_alone(tmp_path: Path, world: World) -> None:
    def texts(name: str, **settings: Any) -> set[str]:
        folder = built(run_of(tmp_path / name, **settings))
        return {json.loads(line)["text"] for line in (folder / "synthetic.jsonl").read_text("utf-8").splitlines()}

    world.words = lambda text, seed: f"{STEPS[seed % 12]}要用{seed}分钟，怎样安排？"
    few, many, other = texts("a", count=8), texts("b", count=24), texts("c", count=8, seed=1)
    assert few < many
    assert not few & other


@pytest.mark.parametrize("dies_after", [0, 1, 7, 20])
@pytest.mark.parametrize("torn", ["", '\n["0123", {"text": "怎'])
def test_killed_and_resumed_equals_not_killed(tmp_path: Path, world: World, dies_after: int, torn: str) -> None:
    whole = built(run_of(tmp_path / "whole", 20))
    once, world.asked, world.dies_after = world.asked, [], dies_after
    run = run_of(tmp_path / "killed", 20)
    with pytest.raises(KeyboardInterrupt):
        built(run)
    with (run.partial("prompts") / "synthetic.part.jsonl").open("a", encoding="utf-8") as file:
        file.write(torn)
    world.dies_after = None
    resumed = built(run)
    assert {file.name: file.read_bytes() for file in resumed.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir()
    }
    again = Counter(world.asked) - Counter(once)
    assert not Counter(once) - Counter(world.asked) and sum(again.values()) < 5, "more than one batch is written twice"


def test_what_ships_is_not_written_and_the_teacher_is_not_loaded(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built(run_of(tmp_path / "first", 20))
    run = run_of(tmp_path / "second", 20)
    ready = made_up_rows(run.recipe, read_attempts(first / "synthetic.jsonl"), plainly)
    monkeypatch.setattr("potstill.prompts.synthetic.shipped", lambda sha: ready)
    world.asked = []
    second = built(run)
    assert (second / "prompts.jsonl").read_bytes() == (first / "prompts.jsonl").read_bytes()
    assert (second / "synthetic.jsonl").read_bytes() == (first / "synthetic.jsonl").read_bytes()
    assert not world.asked
    more = read_json(built(run_of(tmp_path / "more", 24)) / "report.json")["synthetic"]
    assert len(world.asked) == more["written"] - len(ready)
    world.asked = []
    built(run_of(tmp_path / "other", 20, seed=1))
    assert world.asked, "what ships was written with another seed"


def test_repetitions_and_what_measures_fall_and_are_written_anew(tmp_path: Path, world: World) -> None:
    held_out = next(one.text for one in golden() if one.split == "held-out" and one.category == "everyday")
    trained = next(one.text for one in golden() if one.split == "train")
    evaluated = evaluation_sets()["commonsense"][0]
    stubborn = iter([held_out, trained, f"请问{evaluated}"])
    run = run_of(tmp_path, 4, kinds=[{"category": "everyday", "language": "zh"}], tries=20)
    world.words = lambda text, seed: next(stubborn, f"{STEPS[seed % 12]}要用{seed}分钟，怎样安排{seed // 7}次？")
    folder = built(run)
    told = read_json(folder / "report.json")["synthetic"]
    assert told["fallen"] == {"exact": 1, "overlap": 2} and told["kept"] == 4 and told["written"] == 7
    kept = {one.text for one in read_prompts(folder / "prompts.jsonl") if one.source.startswith("synthetic:")}
    assert not kept & {held_out, trained, f"请问{evaluated}"}


def test_a_teacher_that_repeats_itself_is_given_up_and_told(tmp_path: Path, world: World) -> None:
    world.words = lambda text, seed: "煮饭要多久？" if "厨师" in text else various(text, seed)
    run = run_of(tmp_path, 12, tries=6)
    told = read_json(built(run) / "report.json")["synthetic"]
    assert told["kinds"] == {
        "everyday-zh": {"wanted": 3, "kept": 1},
        "code-zh": {"wanted": 6, "kept": 6},
        "office-en": {"wanted": 3, "kept": 3},
    }
    assert told["fallen"]["exact"] == 3 * 6 - 1
    assert "no tries left for everyday-zh 1 of 3" in said(run)[-1]


def test_a_real_engine_goes_on_where_the_user_speaks(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Of a random model no text can be asked; what it writes is the same in every run, and is kept with its reason."""
    folders = []
    for name in ("one", "two"):
        recipe = {
            "name": "t",
            "teacher": {"model": str(tiny_checkpoint)},
            "answers": {"context": 128, "max_tokens": 32},
            "prompts": {"synthetic": {"count": 2, "tries": 2, "max_tokens": 12, "kinds": [KITCHEN, ENGLISH]}},
        }
        folders.append(built(Run(tmp_path / name, Recipe.model_validate(recipe), tmp_path / "home", Listening())))
    rows = [json.loads(line) for line in (folders[0] / "synthetic.jsonl").read_text("utf-8").splitlines()]
    assert len({row["text"] for row in rows}) == len(rows) >= 2
    assert {row["text"][:2] for row in rows if "zh" in row["source"]} == {"怎么"}
    assert (folders[0] / "synthetic.jsonl").read_bytes() == (folders[1] / "synthetic.jsonl").read_bytes()
