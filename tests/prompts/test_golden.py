"""Tests of the golden 200, and of the texts that no training prompt may hold."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import potstill.prompts
from potstill.progress import Silent
from potstill.prompts import golden
from potstill.prompts.evaluation import evaluation_sets
from potstill.prompts.normalise import normalise
from potstill.prompts.sifting import HELD_OUT, sift


def test_golden_prompts_are_as_many_as_they_should_be() -> None:
    prompts = golden()
    assert Counter(one.category for one in prompts) == {"everyday": 80, "office": 70, "code": 50}
    assert Counter((one.category, one.split) for one in prompts if one.split == "held-out") == {
        ("everyday", "held-out"): 16,
        ("office", "held-out"): 14,
        ("code", "held-out"): 10,
    }
    assert len({one.id for one in prompts}) == 200


def test_golden_prompts_are_normalised() -> None:
    assert [one.text for one in golden()] == [normalise(one.text) for one in golden()]


def test_golden_prompts_are_apart_from_each_other_and_from_every_evaluation_set() -> None:
    prompts = golden()
    away = evaluation_sets() | {HELD_OUT: [one.text for one in prompts if one.split == "held-out"]}
    with Silent().task("", None, "") as task:
        assert sift(prompts, away, 0.5, task) == (prompts, [])


def test_every_evaluation_set_of_the_package_is_known() -> None:
    sets = evaluation_sets()
    folder = Path(potstill.prompts.__file__).parent.parent / "evaluate"
    assert sets.keys() == {file.stem for file in folder.glob("*.jsonl")} >= {"commonsense"}
    for name, questions in sets.items():
        assert questions and all(question.strip() for question in questions), name


def test_the_stage_loads_no_later_stage_and_nothing_heavy() -> None:
    code = (
        "import sys, potstill.answers, potstill.prompts.evaluation; potstill.prompts.evaluation.evaluation_sets();"
        "unwanted = {'torch', 'transformers', 'datasets', 'numpy', 'xllamacpp', 'potstill.evaluate', 'potstill.vocab'};"
        "print(sorted(unwanted & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
