"""Runs side by side: paired differences, shared items, seeds of one recipe, and what differs in the recipes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from evaluated_run import answers, build

from potstill.compare import Comparison, compare, comparison_json, comparison_tables, write_page
from potstill.compare.page import render
from potstill.compare.pairing import compare_runs
from potstill.compare.standing import Reading, Standing
from potstill.evaluate.scorecard import ratio, stretch
from potstill.problem import Problem
from potstill.run import write_json

HARD = list(np.random.default_rng(0).uniform(0.2, 3.0, 40))
"""Answers differ far more from each other than students do on one answer."""


def standing(comparison: Comparison, metric: str) -> Standing:
    return next(one for one in comparison.standings if one.metric.key == metric)


def second(comparison: Comparison, metric: str = "fidelity.kl") -> Reading:
    return standing(comparison, metric).readings[1]


class TestPairing:
    def test_a_difference_of_all_items_alike_is_certain(self) -> None:
        first = np.array([[[one, 1.0] for one in HARD]])
        value, difference = compare_runs(first, first + np.array([0.1, 0.0]), ratio, 500, 0)
        assert difference.value == pytest.approx(0.1)
        assert difference.low == pytest.approx(0.1) and difference.high == pytest.approx(0.1)
        assert value.low is not None and value.high is not None
        assert value.high - value.low > 0.3  # although each alone is far from certain

    def test_equal_runs_differ_by_nothing(self) -> None:
        rows = np.array([[[one, 2.0] for one in HARD]])
        difference = compare_runs(rows, rows, ratio, 200, 0)[1]
        assert difference.value == 0 and difference.low is None

    def test_the_interval_covers_the_truth_as_often_as_it_says(self) -> None:
        random, hits = np.random.default_rng(1), 0
        for trial in range(200):
            hard = random.uniform(0.2, 3.0, 40)
            rows = np.stack([hard, hard + random.normal(0.05, 0.2, 40)])
            first, other = (np.stack([one, np.ones(40)], axis=1)[None] for one in rows)
            found = compare_runs(first, other, ratio, 300, trial)[1]
            assert found.low is not None and found.high is not None
            hits += found.low <= 0.05 <= found.high
        assert 178 <= hits <= 199

    def test_seeds_that_disagree_widen_the_interval(self) -> None:
        first = np.array([[[one, 1.0] for one in HARD]])
        agreeing = np.concatenate([first + np.array([0.1, 0.0]), first + np.array([0.1, 0.0])])
        disagreeing = np.concatenate([first + np.array([0.0, 0.0]), first + np.array([0.2, 0.0])])
        narrow, wide = (compare_runs(first, runs, ratio, 500, 0)[1] for runs in (agreeing, disagreeing))
        assert narrow.value == pytest.approx(wide.value) == pytest.approx(0.1)
        assert (narrow.low, narrow.high) == (pytest.approx(0.1), pytest.approx(0.1))
        assert wide.low == pytest.approx(0.1 - 0.1 * stretch(40)) and wide.high == pytest.approx(
            0.1 + 0.1 * stretch(40)
        )


def test_the_better_one_is_told_from_the_undecided(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    base = build(tmp_path / "base", answers(HARD))
    better = build(tmp_path / "better", answers([one - 0.1 for one in HARD]))
    worse = build(tmp_path / "worse", answers([one + 0.1 + random.normal(0, 0.1) for one in HARD]))
    noise = build(tmp_path / "noise", answers([one + random.normal(0, 0.3) for one in HARD]))
    found = standing(compare([base, better, worse, noise]), "fidelity.kl")
    assert [one.verdict for one in found.readings] == ["first", "better", "worse", "undecided"]
    assert found.readings[0].difference is None and found.n == 40


def test_only_shared_answers_count_and_it_says_so(tmp_path: Path) -> None:
    one = build(tmp_path / "one", answers([1.0] * 10))
    other = build(tmp_path / "other", answers([9.0] * 4 + [2.0] * 6, first=-4))
    found = compare([one, other])
    reading = second(found)
    assert standing(found, "fidelity.kl").n == 6
    assert reading.value and reading.value.value == pytest.approx(2.0)
    assert reading.difference and reading.difference.value == pytest.approx(1.0)
    (warning,) = found.warnings
    assert "6 are shared" in warning and "one has 10" in warning and "other has 10" in warning


def test_nothing_shared_is_not_paired(tmp_path: Path) -> None:
    one, other = build(tmp_path / "one", answers([1.0] * 3)), build(tmp_path / "other", answers([2.0] * 3, first=50))
    found = compare([one, other])
    assert not second(found).paired
    assert "0 are shared" in found.warnings[0]


def test_where_all_items_are_shared_the_scorecards_interval_stands(tmp_path: Path) -> None:
    one, other = build(tmp_path / "one", answers(HARD)), build(tmp_path / "other", answers(HARD[::-1]))
    for reading in standing(compare([one, other]), "fidelity.kl").readings:
        value = reading.value
        assert value and value.low == pytest.approx(value.value - 0.123)


def test_a_run_without_items_is_shown_but_not_paired(tmp_path: Path) -> None:
    one, other = build(tmp_path / "one", answers(HARD)), build(tmp_path / "old", answers([2.0, 2.0]))
    (other / "evaluate" / "items.json").unlink()
    found = compare([one, other])
    reading = second(found)
    assert reading.difference and reading.difference.value == pytest.approx(2.0 - np.mean(HARD))
    assert not reading.paired and reading.difference.low is None and reading.verdict == "plain"
    assert found.warnings == ("old kept no items, so that nothing of it is paired: evaluate it again.",)


def test_speed_is_compared_without_pairs(tmp_path: Path) -> None:
    one, other = build(tmp_path / "one", {}, decode=100), build(tmp_path / "other", {}, decode=120)
    reading = second(compare([one, other]), "speed.decode_tok_s")
    assert reading.difference and reading.difference.value == 20
    assert not reading.paired and reading.verdict == "plain"


def test_what_nobody_measured_is_left_out(tmp_path: Path) -> None:
    found = compare([build(tmp_path / "one", {}), build(tmp_path / "other", {})])
    assert [one.metric.key for one in found.standings] == ["speed.decode_tok_s"]


class TestSeeds:
    def test_seeds_of_one_recipe_are_one(self, tmp_path: Path) -> None:
        base = build(tmp_path / "base", answers([1.0] * 8))
        runs = [
            build(tmp_path / f"other-{seed}", answers([kl] * 8), seed=seed, distill={"budget_minutes": 3})
            for seed, kl in enumerate((2.0, 3.0))
        ]
        found = compare([base, *runs])
        assert [one.name for one in found.entrants] == ["base", "other-0 (2 seeds)"]
        reading = second(found)
        assert reading.value and reading.value.value == pytest.approx(2.5)
        assert reading.difference and reading.difference.value == pytest.approx(1.5)
        assert (reading.difference.low, reading.difference.high) == (
            pytest.approx(1.5 - 0.5 * stretch(8)),
            pytest.approx(1.5 + 0.5 * stretch(8)),
        )

    def test_the_same_seed_again_stands_apart(self, tmp_path: Path) -> None:
        """Something else has changed, and that is what is asked about."""
        runs = [build(tmp_path / name, answers([1.0] * 3), name="demo") for name in ("before", "after")]
        assert [one.name for one in compare(runs).entrants] == ["before", "after"]

    def test_seeds_of_the_only_recipe_stand_apart(self, tmp_path: Path) -> None:
        runs = [build(tmp_path / f"run-{seed}", answers([1.0] * 3), seed=seed) for seed in range(3)]
        assert len(compare(runs).entrants) == 3


class TestRecipes:
    def test_only_keys_that_differ_are_told(self, tmp_path: Path) -> None:
        one = build(tmp_path / "one", {}, distill={"trained": "lora", "hidden_pairs": [{"student": 1, "teacher": 2}]})
        other = build(tmp_path / "other", {}, prune={"layers": 12})
        assert compare([one, other]).recipes == {
            "prune.layers": [None, 12],
            "distill.trained": ["lora", "all"],
            "distill.hidden_pairs": [[{"student": 1, "teacher": 2, "weight": 1.0}], []],
        }

    def test_a_file_counts_by_its_name(self, tmp_path: Path) -> None:
        runs = [
            build(tmp_path / name, {}, prompts={"files": [{"path": str(tmp_path / name / "own.jsonl")}]})
            for name in ("one", "other")
        ]
        assert compare(runs).recipes == {}


class TestRefuses:
    def test_one_run(self, tmp_path: Path) -> None:
        one = build(tmp_path / "one", {})
        for folders in ([one], [one, one]):
            with pytest.raises(Problem, match="two runs or more"):
                compare(folders)

    def test_what_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(Problem, match="not a run folder"):
            compare([build(tmp_path / "one", {}), tmp_path])

    def test_what_has_not_been_measured(self, tmp_path: Path) -> None:
        one, other = build(tmp_path / "one", {}), build(tmp_path / "other", {})
        (other / "evaluate" / "scorecard.json").unlink()
        with pytest.raises(Problem, match=f"has not been measured. potstill evaluate {re.escape(str(other))}"):
            compare([one, other])


@pytest.fixture
def compared(tmp_path: Path) -> Comparison:
    code = {"code.runs": {f"t-{place}": [place % 2, 1.0] for place in range(10)}}
    other = {"code.runs": {f"t-{place}": [1.0, 1.0] for place in range(10)}}
    return compare(
        [
            build(tmp_path / "base", answers(HARD) | code),
            build(
                tmp_path / "other",
                answers([one - 0.1 for one in HARD]) | other,
                name="other",
                distill={"trained": "lora"},
            ),
        ]
    )


def test_the_terminal_shows_a_row_an_entrant(compared: Comparison) -> None:
    (_, columns, rows), (_, keys, differing) = comparison_tables(compared)
    assert columns[3] == "against base [95 %]"
    found = {(row[0], row[1]): row[2:] for row in rows}
    assert found["fidelity.kl, nats, n = 40", "base"][1:] == ["", ""]
    assert found["", "other"][2] in ("better", "not paired")
    (kl,) = [row for row in rows if row[3].startswith("-0.1 ")]
    assert kl[3:] == ["-0.1 [-0.1 to -0.1]", "better"]
    assert keys == ["key", "base", "other"]
    assert differing == [["distill.trained", '"all"', '"lora"']]


def test_json_holds_everything_by_name(compared: Comparison) -> None:
    found = json.loads(json.dumps(comparison_json(compared)))
    assert found["metrics"]["code.runs"]["runs"]["other"]["difference"] == pytest.approx(0.5)
    assert found["metrics"]["code.runs"]["runs"]["other"]["verdict"] == "better"
    assert found["metrics"]["fidelity.kl"]["n"] == 40
    assert found["recipes"] == {"distill.trained": {"base": "all", "other": "lora"}}
    assert set(found["runs"]) == {"base", "other"}


class TestPage:
    def test_it_needs_nothing_and_says_the_same_every_time(self, compared: Comparison, tmp_path: Path) -> None:
        path = tmp_path / "new" / "compare.html"
        write_page(compared, path)
        text = path.read_text(encoding="utf-8")
        assert text == render(compared)
        assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import', text)
        assert "default-src 'none'" in text

    def test_both_languages_and_nobodys_folders(self, compared: Comparison, tmp_path: Path) -> None:
        text = render(compared)
        assert "KL divergence" in text and "KL 散度" in text and "对比基准" in text
        assert str(tmp_path) not in text

    def test_the_name_of_a_folder_stays_text(self, tmp_path: Path) -> None:
        text = render(compare([build(tmp_path / name, answers(HARD), name="x") for name in ("one", "<b>other")]))
        assert "&lt;b&gt;other" in text and "<b>other" not in text

    def test_better_stands_to_the_right(self, compared: Comparison) -> None:
        """Less KL and more runs are both better."""
        places = re.findall(r'class="mark mark-student" style="left:([\d.]+)%', render(compared))
        assert len(places) == 2 and all(float(place) > 75 for place in places)

    def test_a_share_differs_by_points(self, compared: Comparison) -> None:
        assert "+50.0" in render(compared) and "points" in render(compared)

    def test_a_warning_is_on_the_page_too(self, tmp_path: Path) -> None:
        runs = [build(tmp_path / "one", answers(HARD)), build(tmp_path / "other", answers(HARD, first=3))]
        write_json(runs[0] / "evaluate" / "items.json", {})
        found = compare(runs)
        assert found.warnings[0] in render(found)
        assert str(tmp_path) not in render(found)


def test_scores_of_an_earlier_student_are_compared_with_nobodys(tmp_path: Path) -> None:
    runs = [build(tmp_path / name, answers(HARD)) for name in ("one", "other")]
    stages = {
        "evaluate": {"content": "e", "inputs": {"export": "earlier"}},
        "export": {"content": "later", "inputs": {}},
    }
    write_json(runs[1] / "manifest.json", {"recipe": "other", "stages": stages})
    with pytest.raises(Problem, match=r"other: `evaluate` is of an earlier student.*potstill evaluate"):
        compare(runs)
