"""A GPU learns what a processor learns. Runs only where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_store import build_store
from test_trainer import changed, recipe_with, train
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from potstill.distill import newest_checkpoint
from potstill.signals.store import SignalStore
from tiny import build_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none here")

EVERYTHING = {
    "hidden_pairs": [{"student": 2, "teacher": 2}],
    "attention_pairs": [{"student": 2, "teacher": 2}],
    "losses": {"cross_entropy": 0.5, "shares_every": 1},
    "tail": {"probability": 0.5, "share": 0.5},
}


def same_curve(
    student: PreTrainedModel, store: SignalStore, folder: Path, monkeypatch: pytest.MonkeyPatch, **distill: Any
) -> None:
    """Train the student twice, on the processor and on the GPU; the third time goes on from a GPU's checkpoint."""
    recipe = recipe_with(precision="float32", checkpoint_seconds=1e-6, **distill)
    with monkeypatch.context() as without_gpu:
        without_gpu.setattr(torch.cuda, "is_available", lambda: False)
        expected = train(changed(student, 0), store, folder / "processor", recipe)
    there = changed(student, 0)
    train(there, store, folder / "gpu", recipe, stop=1)
    assert there.device.type == "cuda"
    found = train(changed(student, 0), store, folder / "gpu", recipe, resume=newest_checkpoint(folder / "gpu"))
    assert len(found) == len(expected) > 2
    for line, other in zip(found, expected, strict=True):
        assert line.keys() == other.keys()
        for name in line.keys() - {"seconds"}:
            assert line[name] == pytest.approx(other[name], rel=1e-2, abs=1e-5), name


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_gpu_learns_what_a_processor_learns_from_hidden_states(
    tiny_model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    store = build_store(tiny_model, tmp_path / "signals", "hidden", layers=(2,), attention=(2,))
    same_curve(changed(tiny_model, 1), store, tmp_path, monkeypatch, **settings)


def test_so_it_does_from_the_likeliest_tokens(
    tiny_model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build_store(tiny_model, tmp_path / "signals", "topk")
    same_curve(changed(tiny_model, 1), store, tmp_path, monkeypatch)


def test_so_it_does_with_another_width_than_its_teacher(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = build_store(tiny_model, tmp_path / "signals", "hidden", layers=(2,))
    student = build_model(tiny_tokenizer, hidden_size=32, num_hidden_layers=2)
    same_curve(student, store, tmp_path, monkeypatch, hidden_pairs=[{"student": 1, "teacher": 2}])
