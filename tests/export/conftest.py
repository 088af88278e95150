"""A run whose student is trained, as far as `export` looks at it.

In:  the tiny checkpoint.
Out: a `Run` over a tiny student, and the examples it was trained on.
Does not know: any single test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from potstill.models.examples import Example
from potstill.models.teacher import load_tokenizer
from potstill.recipe import Recipe
from potstill.run import Run, write_json
from tiny import SENTENCES

Exporting = Callable[..., Run]


@pytest.fixture(scope="session")
def tiny_student(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer as students have it: without the teacher's normaliser."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("student") / "checkpoint"))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"normalizer": None}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def answers(tiny_student: Path) -> list[Example]:
    """The tiny tokenizer's own sentences as answers."""
    tokenizer = load_tokenizer(tiny_student)
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in SENTENCES]
    return [Example(f"e{n}", "test", np.array(ids, dtype=np.int64), 2) for n, ids in enumerate(texts)]


@pytest.fixture
def exporting(tiny_student: Path, answers: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exporting:
    """A function that gives a run with these settings under [export]."""

    class Store:
        """All examples in either split."""

        examples = answers

        def __init__(self, *_: Any) -> None: ...

        def __len__(self) -> int:
            return len(answers)

    teacher = SimpleNamespace(name="tiny", licence="Apache-2.0", sha256="0" * 64)
    for module in ("writing", "choosing"):
        monkeypatch.setattr(f"potstill.export.{module}.SignalStore", Store)
    monkeypatch.setattr("potstill.export.writing.find_teacher", lambda *_: teacher)

    def build(**export: Any) -> Run:
        run = Run(tmp_path / "run", Recipe.model_validate({"name": "tiny", "export": export}), home=tmp_path / "home")
        (run.folder / "signals").mkdir(parents=True)
        shutil.copytree(tiny_student, run.folder / "distill" / "student")
        write_json(run.folder / "distill" / "report.json", {"dtype": "float32"})
        (run.folder / "export").mkdir()
        return run

    return build
