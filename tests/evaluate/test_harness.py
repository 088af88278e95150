"""lm-evaluation-harness is asked in its own words, and its absence is told."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from potstill.evaluate.harness import harness_scores
from potstill.problem import Problem


class Manager:
    def match_tasks(self, tasks: list[str]) -> list[str]:
        return [task for task in tasks if task.startswith("xcopa")]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the harness that notes what it is asked."""
    seen: list[dict[str, Any]] = []

    def simple_evaluate(**asked: Any) -> dict[str, Any]:
        seen.append(asked)
        if "xcopa_far" in asked["tasks"]:
            raise OSError("no network")
        return {"results": {"xcopa_zh": {"acc,none": 0.5, "acc_stderr,none": 0.02, "alias": "xcopa_zh"}}}

    harness, tasks = ModuleType("lm_eval"), ModuleType("lm_eval.tasks")
    harness.simple_evaluate, tasks.TaskManager = simple_evaluate, Manager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", harness)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", tasks)
    return seen


def test_scores_are_the_harness_s_numbers(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("task: own")

    found = harness_scores(tmp_path, ["xcopa_zh", str(own)], limit=3)

    assert found == {"xcopa_zh": {"acc,none": 0.5, "acc_stderr,none": 0.02}}
    assert asked[0]["model_args"]["pretrained"] == str(tmp_path)
    assert asked[0]["tasks"] == ["xcopa_zh", str(own)] and asked[0]["limit"] == 3


def test_an_unknown_task_is_named(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(Problem, match="knows no task hellaswagg"):
        harness_scores(tmp_path, ["xcopa_zh", "hellaswagg"])
    assert not asked


def test_data_out_of_reach_is_told(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no network"):
        harness_scores(tmp_path, ["xcopa_far"])


def test_without_the_harness_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(Problem, match="is not installed") as told:
        harness_scores(tmp_path, ["xcopa_zh"])
    assert "-m pip install -e '.[lm-eval]'" in told.value.remedy
