"""Several sizes of one recipe: shapes, shared stages, the whole way on a tiny teacher, the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from transformers import Qwen2Config
from typer.testing import CliRunner

from listening import Listening
from potstill import cli_plan, ladder
from potstill.cli_plan import quantity, sizes
from potstill.ladder import climb, plan
from potstill.ladder.page import render
from potstill.ladder.plan import Rung, sized
from potstill.problem import Problem
from potstill.prune.shape import choose_shape, count_parameters
from potstill.recipe import Recipe, load_recipe
from potstill.run import Run, read_json, write_json
from stopping import Stopping
from test_end_to_end import QUESTIONS, RECIPE, hold_still
from tiny import save_checkpoint

LARGE = Qwen2Config(
    vocab_size=151936, hidden_size=896, num_hidden_layers=24, intermediate_size=4864, num_attention_heads=14,
    num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
LESS = {
    "code_tasks = 1": "code_tasks = 0", "commonsense = 3": "commonsense = 0", "\nsamples = 2": "\nsamples = 0",
    "commonsense_written = 2": "commonsense_written = 0", "stability_questions = 2": "stability_questions = 0",
    'types = ["F16", "Q8_0"]': 'types = ["Q8_0"]', "epochs = 2": "budget_minutes = 9",
    "hidden_pairs = [{ student = 2, teacher = 3 }]": "",
}  # fmt: skip


def test_sizes_become_shapes_within_two_percent() -> None:
    recipe, depths = Recipe(name="x"), []
    for size in (300, 230, 150, 80):
        wanted = sized(recipe, LARGE, recipe.vocab.size, size * 10**6).prune
        spec = choose_shape(LARGE, recipe.vocab.size, wanted)
        assert count_parameters(LARGE, spec) == pytest.approx(size * 10**6, rel=0.02)
        depths.append(spec.layers)
    assert depths == sorted(depths, reverse=True) and depths[0] > depths[-1]
    with pytest.raises(Problem, match="out of reach"):
        sized(recipe, LARGE, recipe.vocab.size, 900 * 10**6)


def test_time_is_split_equally_and_runs_are_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"name": "x", "teacher": {"model": str(tiny_checkpoint)}, "vocab": {"size": 512}})
    rungs = plan(recipe, [150_000, 110_000, 75_000], 90, tmp_path, tmp_path / "home", Listening())
    assert [rung.run.recipe.distill.budget_minutes for rung in rungs] == [30, 30, 30]
    assert [rung.run.folder.name for rung in rungs] == ["0.15M", "0.11M", "0.075M"]
    assert len({rung.run.recipe.name for rung in rungs}) == 3
    layers = [rung.run.recipe.prune.layers for rung in rungs]
    assert layers == sorted(layers, reverse=True) and len(set(layers)) > 1
    (own,) = plan(recipe, [110_000], None, tmp_path, tmp_path / "home", Listening())
    assert own.run.recipe.distill == recipe.distill


def test_a_base_with_the_teachers_tokens_is_cut_to_the_students(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", seed=3)
    recipe = Recipe.model_validate(
        {"name": "x", "teacher": {"model": str(tiny_checkpoint)}, "vocab": {"size": 512}, "prune": {"base": str(base)}}
    )
    other = recipe.model_copy(update={"prune": Recipe(name="x").prune})
    cut = [plan(one, [110_000], None, tmp_path, tmp_path, Listening())[0].run.recipe.prune for one in (recipe, other)]
    assert cut[0].layers == cut[1].layers


def test_quantities_as_people_type_them() -> None:
    assert sizes("300M, 0.23B,150000K,80000000") == [300_000_000, 230_000_000, 150_000_000, 80_000_000]
    assert cli_plan.minutes("1.5h") == 90 and cli_plan.minutes("90s") == 1.5 and cli_plan.minutes("10") == 10
    assert quantity("--first-token", "0.2s", cli_plan.MILLISECONDS, "a wait", "150ms") == 200
    assert quantity("--first-token", "150ms", cli_plan.MILLISECONDS, "a wait", "150ms") == 150
    for wrong in ("big", "300M,,80M", "-3M", "0", "nan", "infM"):
        with pytest.raises(Problem, match=r"is not a number of parameters.*300M,150M,80M"):
            sizes(wrong)
    with pytest.raises(Problem, match="names a size twice"):
        sizes("150M,0.15B")


def fake_run(run: Run) -> None:
    """As much of a finished run as a ladder reads; the smallest fails."""
    if run.folder.name == "80M":
        raise RuntimeError("out of <b>memory</b>")
    for name, file, content in (
        ("prune", "report.json", {"spec": {"layers": 20, "ffn": 1568}, "parameters": 150_000_000}),
        ("evaluate", "scorecard.json", card(float(run.folder.name.removesuffix("M")))),
    ):
        (run.folder / name).mkdir(parents=True, exist_ok=True)
        write_json(run.folder / name / file, content)
    write_json(run.folder / "manifest.json", {"stages": {"distill": {"seconds": 60, "fingerprint": "x"}}})


def card(size: float) -> dict[str, dict[str, dict[str, object]]]:
    def row(student: float, teacher: float, unit: str, n: int) -> dict[str, dict[str, object]]:
        ends = {"low": None, "high": None, "unit": unit, "n": n}
        return {"student": {"value": student, **ends}, "teacher": {"value": teacher, **ends}}

    return {
        "fidelity.kl": row(100 / size, 0.0, "nats", 40),
        "fidelity.top1": row(size / 400, 1.0, "share", 40),
        "size.file_mb": row(size * 0.6, 491.0, "MB", 1),
        "speed.decode_tok_s": row(20000 / size, 40.0, "tokens/s", 3),
    }


def test_a_size_that_fails_is_named_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder.pipeline, "run_all", fake_run)
    monkeypatch.setattr(ladder, "copy_finished", lambda *_: None)
    names: Sequence[str] = ("300M", "80M", "150M")
    rungs = [Rung(name, Run(tmp_path / name, Recipe(name=name), tmp_path, Listening())) for name in names]
    found = climb(rungs, tmp_path)
    assert [one.name for one in found.done] == ["300M", "150M"]
    assert found.failures() == ["80M failed: out of <b>memory</b>"]
    _, columns, rows = found.table()
    assert [row[0] for row in rows] == list(names) and all(len(row) == len(columns) for row in rows)
    assert rows[1][1] == "failed" and rows[2][columns.index("× teacher")] == "3.33"
    kept = read_json(tmp_path / "ladder.json")
    assert kept == json.loads(json.dumps(found.to_json())) and kept["sizes"][1]["failure"]
    page = found.page.read_text(encoding="utf-8")
    assert page == render(found) and page.count('class="plot"') == 2
    assert "out of &lt;b&gt;memory" in page and "150M" in page and str(tmp_path) not in page
    assert {"teacher", "300M", "150M"} == set(found.scorecard()["fidelity.top1"])


def test_two_sizes_from_a_tiny_teacher_stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_still(monkeypatch)
    save_checkpoint(tmp_path / "teacher")
    rows = [{"prompt": question, "answer": answer or "好的。"} for question, answer in QUESTIONS.items()]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE
    for before, after in LESS.items():
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    recipe, folder = load_recipe(tmp_path / "tiny.toml"), tmp_path / "ladder"

    def rungs(progress: Listening) -> list[Rung]:
        return plan(recipe, [110_000, 75_000], 0.04, folder, tmp_path / "home", progress)

    with pytest.raises(KeyboardInterrupt):
        climb(rungs(Stopping("cut and heal", 5)), folder)
    first, second = folder / "0.11M", folder / "0.075M"
    assert (first / "evaluate").is_dir() and not (second / "prune").exists()
    assert (folder / "ladder.html").exists() and len(read_json(folder / "ladder.json")["sizes"]) == 1
    for stage in ("prompts", "answers", "vocab", "signals"):
        entries = [read_json(one / "manifest.json")["stages"][stage] for one in (first, second)]
        assert entries[0] == entries[1]
    before = (first / "manifest.json").read_bytes()
    found = climb(rungs(Listening()), folder)
    assert (first / "manifest.json").read_bytes() == before
    assert not found.failures() and len(found.done) == 2
    larger, smaller = found.members
    assert larger.parameters > smaller.parameters == pytest.approx(75_000, rel=0.1)
    assert larger.value("size.file_mb") > smaller.value("size.file_mb")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit"], "nothing is asked of the device"),
        (["fit", "--first-token", "soon"], "--first-token soon is not a wait"),
        (["fit", "--size", "-4MB"], "--size -4MB is not a size"),
        (["fit", "none.toml", "--size", "100MB"], "none.toml: no such file"),
        (["ladder", "none.toml", "--sizes", "80M"], "none.toml: no such file"),
        (["ladder", "x.toml", "--sizes", "large"], "--sizes large is not a number of parameters"),
        (["ladder", "x.toml", "--sizes", "80M", "--budget", "soon"], "--budget soon is not a time"),
    ],
)
def test_bad_input_gets_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text('name = "x"\n')
    app = typer.Typer(rich_markup_mode=None)
    cli_plan.register(app)
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, Problem) and said in str(result.exception)
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(("verb", "recipe"), [("fit", "demo"), ("ladder", "qwen-150m")])
def test_help_shows_an_example(verb: str, recipe: str) -> None:
    app = typer.Typer(rich_markup_mode=None)
    cli_plan.register(app)
    assert f"Example:  potstill {verb} recipes/{recipe}.toml" in CliRunner().invoke(app, [verb, "--help"]).output
