"""From a recipe to proposals on a tiny teacher: interrupted, resumed, asked again with other limits."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from listening import Listening
from potstill import pipeline
from potstill.fit import NEEDED, Limits, Wishes, _make_ready, fit, measuring
from potstill.models.engine import Threads
from potstill.models.speed import SpeedSample
from potstill.problem import Problem
from potstill.recipe import Recipe, load_recipe, validate_recipe
from potstill.run import Run, write_json
from potstill.run import open_run as opened_run
from stopping import Stopping
from test_end_to_end import QUESTIONS, RECIPE
from tiny import save_checkpoint

WISHES = Wishes(kind="Q8_0", most=2, heal=True, heal_tokens=256, answers=2)
SAMPLE = SpeedSample(0.1, (20.0,), (100.0,), 50.0, 40.0, ((1.0,),), (5.0,), None, (9,), "PASSIVE")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fit")
    save_checkpoint(place / "teacher")
    rows = [{"prompt": question, "answer": answer or "好的。"} for question, answer in QUESTIONS.items()]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    return place


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were timed, instead of timing them: a smaller file is faster."""
    seen: list[str] = []

    def measured(gguf: Path, threads: Threads, *_: object, **__: object) -> SpeedSample:
        seen.append(gguf.name)
        return replace(SAMPLE, decode_tok_s=(1e7 / gguf.stat().st_size,))

    monkeypatch.setattr(measuring, "measure", measured)
    monkeypatch.setattr(measuring, "trial_rates", lambda _, settings, *__, **___: [1.0] * len(settings))
    return seen


def open_run(place: Path, name: str, progress: Listening, **changes: object) -> Run:
    recipe = load_recipe(place / "tiny.toml").model_copy(update=changes)
    return Run(place / name, recipe, place / "home", progress)


@pytest.fixture(scope="module")
def ready(place: Path) -> Path:
    """A run that has come as far as its signals."""
    for stage in NEEDED:
        pipeline.run_stage(open_run(place, "run", Listening()), stage)
    return place


def test_stopped_and_resumed_it_measures_nothing_twice(ready: Path, timed: list[str]) -> None:
    limits = Limits(decode_tok_s=1, size_mb=5)
    with pytest.raises(KeyboardInterrupt):
        fit(open_run(ready, "run", Stopping("shapes timed", 3)), limits, WISHES)
    assert len(timed) == 1 and not (ready / "run" / "fit" / "files").exists()
    with pytest.raises(KeyboardInterrupt):
        fit(open_run(ready, "run", Stopping("healed and compared", 1)), limits, WISHES)
    assert len(timed) == 2 and not (ready / "run" / "fit" / "student").exists()
    found = fit(open_run(ready, "run", Listening()), limits, WISHES)
    assert len(timed) == 2 and not found.why_not_healed
    assert {path.name for path in (ready / "run" / "fit").iterdir()} <= {"measured.jsonl", "tokenizer"}

    kl = [one.quality.kl for one in found.proposals if one.quality]
    assert len(kl) == 2 and kl[0].n == 2 and 0 <= (kl[0].value or 0) <= (kl[1].value or 0)
    written = tomllib.loads(found.snippets()[0])
    recipe = validate_recipe({"name": "x", **written}, "snippet")
    best = found.proposals[0].timed.candidate.spec
    assert (recipe.prune.layers, recipe.prune.ffn, recipe.prune.hidden) == (best.layers, best.ffn, best.hidden)
    assert json.loads(json.dumps(found.to_json()))["proposals"][0]["quality"]["kl"]["n"] == 2
    _, columns, rows = found.table()
    assert all(len(row) == len(columns) for row in rows)

    impossible = fit(open_run(ready, "run", Listening()), Limits(decode_tok_s=1e9, size_mb=5), WISHES)
    assert len(timed) == 2 and not impossible.proposals
    assert "--decode 1e+09 tokens/s excludes 2 of 2; the closest reaches" in impossible.explain()[0]
    assert "100% off" in impossible.explain()[0]


def test_speed_alone_needs_no_stage_and_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real files, real processes."""
    monkeypatch.setattr(measuring, "usable_cores", lambda: 1)
    run = open_run(place, "bare", Listening())
    found = fit(run, Limits(decode_tok_s=0.01), replace(WISHES, heal=False, most=1))
    (one,) = found.proposals
    assert one.quality is None and found.why_not_healed and one.timed.rounds == 1
    assert one.timed.decode_tok_s.value > 0.01 and one.timed.first_token_ms.value > 0 and one.timed.memory_mb > 1
    assert {path.name for path in run.folder.iterdir()} <= {"fit", ".lock"}
    assert one.timed.threads.decode == 1


def test_without_healing_it_says_why(ready: Path, timed: list[str], tmp_path: Path) -> None:
    (ready / "none.toml").write_text(RECIPE.replace("held_out_share = 0.25\n", ""), encoding="utf-8")
    other = load_recipe(ready / "tiny.toml").signals.model_copy(update={"precision": "float16"})
    stale = open_run(ready, "run", Listening(), signals=other)
    before = stale.manifest()
    nothing = Run(tmp_path / "run", load_recipe(ready / "none.toml"), ready / "home", Listening())
    for run, why in ((stale, "`signals` of"), (nothing, "nothing is held out")):
        found = fit(run, Limits(size_mb=5), WISHES)
        assert why in found.why_not_healed and found.proposals[0].quality is None
        parameters = [one.timed.candidate.parameters for one in found.proposals]
        assert parameters == sorted(parameters, reverse=True)
    assert stale.manifest() == before  # a finished run is not made anew by the way


def test_a_stale_stage_is_made_again_by_a_command_that_knows_the_recipe(place: Path) -> None:
    """A verb reads the recipe in the run folder: of no use to somebody who gave `fit` a changed one."""
    kept = open_run(place, "old", Listening())
    kept.keep_recipe()
    (kept.folder / "prompts").mkdir()
    write_json(kept.folder / "manifest.json", {"stages": {"prompts": {"fingerprint": "of another recipe"}}})
    changed = open_run(place, "old", Listening(), seed=7)
    for run, command in (
        (opened_run(kept.folder, place / "home"), f"potstill prompts {kept.folder}"),
        (changed, f"potstill run RECIPE --run {kept.folder} --until signals"),
    ):
        assert _make_ready(run) == f"`prompts` of {kept.folder} is stale: {command} makes it again"


def test_a_type_that_is_left_open_must_be_given(place: Path) -> None:
    recipe = Recipe.model_validate({"name": "x", "export": {"ship": "chosen", "target_mb": 90}})
    with pytest.raises(Problem, match="Give --type"):
        fit(Run(place / "chosen", recipe), Limits(size_mb=5), replace(WISHES, kind=None, heal=False))


def test_a_type_that_is_none_is_refused_before_any_stage(place: Path) -> None:
    run = open_run(place, "no-type", Listening())
    with pytest.raises(Problem, match="not a type"):
        fit(run, Limits(size_mb=1.0), replace(WISHES, kind="q4_0"))
    assert not (run.folder / "prompts").exists()
