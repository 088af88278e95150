"""The comparison with peers: all are taught the same tokens, results are kept, who cannot take part says why."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import peers.environments
import pytest
import torch
from hf_training import IGNORED
from hf_training import collate as peers_collate
from peers.conducting import Conductor, Contestant, Result
from peers.contests import step_seconds, tokens_per_second
from peers.environments import Unavailable, python_of
from peers.material import Material
from peers.tables import spread, table

from potstill.distill.batches import collate
from potstill.models.examples import Example
from potstill.problem import Problem


def examples(*shapes: tuple[int, int]) -> list[Example]:
    """Of (length, start of the answer)."""
    return [Example(str(i), "", np.arange(length) + 100 * i + 1, start) for i, (length, start) in enumerate(shapes)]


def conductor(folder: Path) -> Conductor:
    return Conductor(folder, folder / "environments", 1, lambda text: None)


def test_peers_are_taught_the_tokens_that_we_are_taught() -> None:
    """What predicts each label, and the label: one shift later in their convention than in ours."""
    found = examples((7, 3), (5, 1), (4, 3))
    ours = collate(found, [0, 1, 2])
    theirs = peers_collate([{"ids": one.ids.tolist(), "start": one.start} for one in found])
    labels = theirs["labels"][:, 1:]
    rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
    assert torch.equal(theirs["input_ids"], ours["input_ids"])
    assert torch.equal(rows * theirs["input_ids"].shape[1] + columns, ours["rows"])
    assert torch.equal(labels[rows, columns], ours["labels"])
    assert theirs["attention_mask"].sum() == sum(len(one.ids) for one in found)


def test_a_sample_has_all_lengths_and_never_more_than_there_is() -> None:
    material = Material(Path(), Path(), Path(), examples(*((length, 1) for length in range(2, 102))), [], {})
    lengths = [len(one.ids) for one in material.sample(10)]
    assert lengths == list(range(2, 102, 10))
    assert len(material.sample(1000)) == 100


def test_the_first_step_counts_for_nothing() -> None:
    result = Result("", "", [(9.0, 50), (10.0, 150), (11.0, 250)])
    assert step_seconds(result) == 1.0 and tokens_per_second(result) == 100.0


def test_a_result_is_measured_once_and_a_failure_once_a_command(tmp_path: Path) -> None:
    calls: list[str] = []

    def fine(result: Result) -> None:
        calls.append("fine")
        result.steps = [(1.0, 2)]

    def bad(result: Result) -> None:
        calls.append("bad")
        raise Problem("it broke", "Mend it.")

    first = conductor(tmp_path)
    for number in range(2):
        assert first.keep("part", "one", 0, {"a": 1}, fine).failed is None
        assert "it broke" in str(first.keep("part", "two", number, {}, bad).failed)
    assert calls == ["fine", "bad"]
    second = conductor(tmp_path)
    assert [tuple(step) for step in second.keep("part", "one", 0, {"a": 1}, fine).steps] == [(1.0, 2)]
    second.keep("part", "two", 0, {}, bad)
    second.keep("part", "one", 0, {"a": 2}, fine)
    assert calls == ["fine", "bad", "bad", "fine"]


def test_a_process_that_fails_is_a_result_with_its_last_line(tmp_path: Path) -> None:
    found = conductor(tmp_path).measure("part", Contestant("none", "no_such_runner.py"), 0, {})
    assert found.failed is not None and "no_such_runner.py" in found.failed


def test_who_failed_in_any_round_is_a_row_that_says_why() -> None:
    rounds = [
        [Result("a", "", [(1.0, 1)]), Result("b", "")],
        [Result("a", "", [(3.0, 1)]), Result("b", "", failed="x|\ny")],
    ]
    lines = table("T", "who", ["s", "t"], rounds, lambda results: [spread((one.steps[0][0] for one in results), 1), ""])
    assert lines[-3:] == ["| a | 2.0 (1.0–3.0) |  |", "| b | not measured: x/ y |  |", ""]


def test_an_environment_stands_on_our_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.environments.REQUIREMENTS, "numbers", ("numpy",))
    python = python_of("numbers", tmp_path)
    told = subprocess.run(
        [python, "-c", "import numpy; print(numpy.__file__)"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == np.__file__
    assert python_of("numbers", tmp_path) == python


def test_what_pip_cannot_install_is_unavailable_until_the_reason_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.environments.REQUIREMENTS, "none", (str(tmp_path / "nothing-1.0-py3-none-any.whl"),))
    for reason in ("not installable here", "remove none.refused"):
        with pytest.raises(Unavailable, match=reason):
            python_of("none", tmp_path)
