"""Recipes: every mistake at once with its place, defaults spelled out, paths beside the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from potstill.bounds import BOUND
from potstill.problem import Problem
from potstill.recipe import (
    GATES,
    Recipe,
    TemperatureSection,
    load_recipe,
    validate_recipe,
    with_options,
    with_target,
    with_types,
)

SHIPPED = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def mistakes(data: dict[str, object]) -> str:
    with pytest.raises(Problem) as caught:
        validate_recipe(data, "my.toml")
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_loads(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_there_are_shipped_recipes() -> None:
    assert "demo.toml" in [path.name for path in SHIPPED]


def test_every_mistake_is_told_at_once() -> None:
    text = mistakes(
        {
            "name": "x",
            "vocab": {"sise": 512},
            "distill": {"learning_rate": 7, "epochs": "two"},
            "export": {"types": ["F16", "Q4_X"]},
            "prune": {"choose": "influense"},
        }
    )
    assert text.startswith("my.toml: 5 mistakes")
    assert "vocab.sise: unknown key; did you mean `size`?" in text
    assert "distill.learning_rate: input should be less than or equal to 1 (given: 7)" in text
    assert "distill.epochs: input should be a valid number" in text and '(given: "two")' in text
    assert "export.types.2:" in text and "did you mean 'Q4_K'?" in text
    assert "did you mean 'influence'?" in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "name: missing"),
        ({"name": "x", "promts": {}}, "promts: unknown key; did you mean `prompts`?"),
        ({"name": "x", "zzzzzz": 1}, "known here: name, seed, teacher"),
        ({"name": "x", "seed": "3"}, "seed: input should be a valid integer"),
        ({"name": "x", "seed": True}, "seed: input should be a valid integer"),
        ({"name": "x", "vocab": 3}, "vocab: input should be"),
        ({"name": "x", "prompts": {"files": [{"path": "a", "categroy": "b"}]}}, "did you mean `category`?"),
        ({"name": "x", "distill": {"temperature": {"stat": 2}}}, "distill.temperature.stat: unknown key"),
        (
            {"name": "x", "distill": {"temperature": {"start": 5.0, "end": 2.0}}},
            "a constant schedule needs start = end",
        ),
        ({"name": "x", "export": {"types": ["F16"], "ship": "Q4_0"}}, 'ship = "Q4_0" is not among types'),
        ({"name": "x", "distill": {"finish": {"share": 0.2}}}, 'set export.ship = "Q4_0"'),
        (
            {"name": "x", "distill": {"finish": {"share": 0.2}}, "export": {"types": ["Q4_0", "Q8_0"], "ship": "Q8_0"}},
            "Q8_0 would be rounded a second time",
        ),
        (
            {"name": "x", "distill": {"on_policy": {"share": 0.5}, "losses": {"forward_kl": 0, "cross_entropy": 1}}},
            "distill.on_policy.share = 0.5: the student's own answers teach by a divergence alone",
        ),
        (
            {"name": "x", "distill": {"warmup": 1.0, "still": 0.02}},
            "still + warmup = 1.02: together they are at most 1",
        ),
        ({"name": "x", "prompts": {"golden": False}}, "there is nothing to ask"),
        ({"name": "x", "answers": {"max_tokens": 512, "context": 512}}, "smaller than answers.context"),
        ({"name": "x", "vocab": {"size": 1000}}, "vocab.size: input should be a multiple of 64"),
        ({"name": "x", "answers": {"temperature": float("nan")}}, "answers.temperature:"),
    ],
)
def test_a_mistake_has_its_place_and_its_remedy(data: dict[str, object], said: str) -> None:
    text = mistakes(data)
    assert said in text
    assert text.startswith("my.toml: 1 mistake\n") and "potstill schema" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'name = "x', "not valid TOML"),
        (b'name = "x"\nname = "y"\n', "not valid TOML"),
        (b'name = "\xff"', "cannot be read"),
        (b"", "name: missing"),
    ],
)
def test_an_unreadable_file_is_told_in_words(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(Problem, match=said) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_or_a_folder_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such file"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(Problem, match="cannot be read"):
        load_recipe(tmp_path)


def test_paths_are_taken_from_where_the_recipe_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "r.toml").write_text(
        'name = "x"\n[teacher]\nmodel = "teacher"\n[[prompts.files]]\npath = "a.jsonl"\n'
        '[[prompts.files]]\npath = "/data/b.jsonl"\n[vocab]\ntexts = ["../t.txt"]\n[prune]\ntexts = ["u.txt"]\n'
    )
    monkeypatch.chdir(tmp_path.parent)
    recipe = load_recipe(Path(tmp_path.name) / "r.toml")
    assert recipe.teacher.model == str(tmp_path / "teacher")
    assert [file.path for file in recipe.prompts.files] == [tmp_path / "a.jsonl", Path("/data/b.jsonl")]
    assert recipe.vocab.texts == (tmp_path / ".." / "t.txt",) and recipe.prune.texts == (tmp_path / "u.txt",)


def test_a_teachers_name_stays_a_name(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('name = "x"\n[teacher]\nmodel = "owner/model"\n')
    assert load_recipe(tmp_path / "r.toml").teacher.model == "owner/model"


def test_a_recipe_is_frozen_and_survives_json() -> None:
    recipe = validate_recipe({"name": "x", "distill": {"hidden_pairs": [{"student": 2, "teacher": 3}]}}, "t")
    with pytest.raises(ValidationError):
        recipe.distill.epochs = 3.0
    assert validate_recipe(json.loads(recipe.model_dump_json()), "t") == recipe


def test_every_key_has_a_description_and_every_default_is_valid() -> None:
    schema = Recipe.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    missing = [
        f"{section['title']}.{name}"
        for section in sections
        for name, key in section.get("properties", {}).items()
        if "description" not in key and "$ref" not in key
    ]
    assert missing == []
    assert all(section["additionalProperties"] is False for section in sections)
    defaults = Recipe.model_validate({"name": "x"})
    assert validate_recipe(defaults.model_dump(mode="json"), "t") == defaults


def test_the_budget_replaces_the_recipes(tmp_path: Path) -> None:
    recipe = validate_recipe({"name": "x", "distill": {"budget_minutes": 3}}, "t")
    assert with_options(recipe, None, skip_bad=False) is recipe
    assert with_options(recipe, 1.5, skip_bad=False).distill.budget_minutes == 1.5
    assert with_options(recipe, None, skip_bad=True).prompts.skip_bad
    assert recipe.distill.budget_minutes == 3


@pytest.mark.parametrize("value", [0.0, -5.0, float("nan"), float("inf")])
def test_a_target_that_is_no_amount_is_told_in_words(value: float) -> None:
    recipe = validate_recipe({"name": "x"}, "test")
    assert with_target(recipe, 90.0, None).export.target_mb == 90.0
    for option, asked in (("--target-mb", (value, None)), ("--max-kl", (None, value))):
        with pytest.raises(Problem, match=f"{option} = .* Give a number above 0"):
            with_target(recipe, *asked)


def test_other_types_ship_what_the_recipe_ships_or_else_the_first() -> None:
    recipe = validate_recipe({"name": "x"}, "test")
    assert recipe.export.ship == "IQ4_NL"
    for types, ships in ((["Q8_0", "IQ4_NL"], "IQ4_NL"), (["Q4_0", "Q8_0"], "Q4_0")):
        asked = with_types(recipe, types).export
        assert (asked.types, asked.ship) == (tuple(types), ships)
    with pytest.raises(Problem, match=r"(?s)--type.*Q4_O"):
        with_types(recipe, ["Q4_O"])


def test_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [{"path": f"{folder}/test.jsonl", "format": "mbpp"} for folder in ("ours", "theirs")]
    with pytest.raises(Problem, match="several files are called test"):
        validate_recipe({"name": "x", "evaluate": {"files": files}}, "test")


def test_signals_hold_every_paired_layer_once() -> None:
    pairs = [{"student": 1, "teacher": 4}, {"student": 2, "teacher": 2}, {"student": 3, "teacher": 4}]
    assert validate_recipe({"name": "x", "distill": {"hidden_pairs": pairs}}, "t").teacher_layers() == (2, 4)


def test_temperatures_go_from_start_to_end() -> None:
    falling = TemperatureSection(schedule="cosine", start=5.0, end=2.0, levels=4)
    assert falling.values() == pytest.approx((5.0, 4.0, 3.0, 2.0))
    assert TemperatureSection(start=2.0, end=2.0).values() == (2.0,)


@pytest.mark.parametrize("rule", GATES.values())
def test_every_default_gate_is_a_rule(rule: str) -> None:
    assert BOUND.fullmatch(rule)
    assert validate_recipe({"name": "x", "gates": {"code.runs": rule}}, "t").gates == {"code.runs": rule}


def test_gates_of_a_recipe_replace_the_defaults() -> None:
    assert validate_recipe({"name": "x"}, "t").gates == GATES
    assert validate_recipe({"name": "x", "gates": {}}, "t").gates == {}
    given = {"fidelity.kl": " <= 1.1 x teacher + 0.02 ", "size.file_mb": "<=200", "code.runs": ">= 0.5x teacher-0.1"}
    assert validate_recipe({"name": "x", "gates": given}, "t").gates == {
        name: rule.strip() for name, rule in given.items()
    }


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "20",
        "< 20",
        "== 20",
        ">= -1",
        ">= pupil",
        ">= 2 teacher",
        ">= teacher x 2",
        ">= 1e3",
        "<= 3 + 4",
        ">= teacher - ",
    ],
)
def test_a_gate_that_is_no_rule_is_told_with_examples(rule: str) -> None:
    text = mistakes({"name": "x", "gates": {"code.runs": rule}})
    assert "gates.code.runs: a gate reads like" in text and '">= teacher - 0.06"' in text
    assert text.startswith("my.toml: 1 mistake\n")


def test_a_gate_must_be_text() -> None:
    assert "gates.size.file_mb: input should be a valid string" in mistakes(
        {"name": "x", "gates": {"size.file_mb": 320}}
    )


def test_gates_need_no_quotes() -> None:
    plain = validate_recipe({"name": "x", "gates": {"code": {"runs": ">= 0.5"}, "size.file_mb": "<= 90"}}, "x.toml")
    assert plain.gates == {"code.runs": ">= 0.5", "size.file_mb": "<= 90"}
    with pytest.raises(Problem, match=r"a gate reads like"):
        validate_recipe({"name": "x", "gates": {"code": {"runs": "at least half"}}}, "x.toml")
    with pytest.raises(Problem, match="gates"):
        validate_recipe({"name": "x", "gates": {"code": {"runs": 0.5}}}, "x.toml")


def test_a_recipe_may_begin_as_powershell_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes('name = "家"\n'.encode("utf-8-sig"))
    assert load_recipe(path).name == "家"


def test_entries_of_lists_count_from_1() -> None:
    with pytest.raises(Problem, match=r"prompts\.files\.2\.path: missing"):
        validate_recipe({"name": "x", "prompts": {"files": [{"path": "a"}, {}]}}, "r.toml")
