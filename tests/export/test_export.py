"""The proof of a GGUF: the right one passes, a wrong one is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from potstill.export.proof import prove
from potstill.models.examples import Example
from potstill.models.gguf import write_gguf
from potstill.models.llama import LlamaReader
from potstill.problem import Problem
from potstill.progress import Silent
from tiny import save_checkpoint

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    random = np.random.default_rng(0)
    return [Example(f"e{i}", "test", random.integers(0, 600, size=12 + 9 * i), start=4) for i in range(4)]


@pytest.fixture(scope="module")
def student(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer as students have it: without the teacher's normaliser."""
    return without_normaliser(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("student") / "checkpoint"))


def without_normaliser(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"normalizer": None}), encoding="utf-8")
    return folder


def gguf_of(checkpoint: Path, folder: Path, quantisation: str = "F16") -> Path:
    write_gguf(checkpoint, folder / "made.gguf", quantisation, metadata={}, progress=Silent())
    return folder / "made.gguf"


def test_the_right_file_passes(student: Path, tmp_path: Path, examples: list[Example]) -> None:
    exact = prove(student, gguf_of(student, tmp_path), examples, TOLERANCE)
    quantised = prove(student, gguf_of(student, tmp_path, "Q8_0"), examples, None)
    assert exact.kl <= TOLERANCE and 0 < exact.largest < quantised.largest
    assert exact.kl < quantised.kl


def test_other_weights_are_refused(student: Path, tmp_path: Path, examples: list[Example]) -> None:
    other = gguf_of(without_normaliser(save_checkpoint(tmp_path / "other", seed=1)), tmp_path)
    with pytest.raises(Problem, match=r"made\.gguf: .* nats from its student, 0\.0001 are allowed"):
        prove(student, other, examples, TOLERANCE)


def test_a_wrong_rope_base_is_refused(student: Path, tmp_path: Path, examples: list[Example]) -> None:
    shutil.copytree(student, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500.0
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(Problem, match="nats from its student"):
        prove(student, gguf_of(tmp_path / "other", tmp_path), examples, TOLERANCE)


def test_a_lost_bias_is_refused(student: Path, tmp_path: Path, examples: list[Example]) -> None:
    shutil.copytree(student, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["model.layers.1.self_attn.q_proj.bias"].zero_()
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Problem, match="nats from its student"):
        prove(student, gguf_of(tmp_path / "other", tmp_path), examples, TOLERANCE)


def test_logits_that_are_no_numbers_are_refused(
    student: Path, tmp_path: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = LlamaReader.logits
    monkeypatch.setattr(LlamaReader, "logits", lambda *given: logits(*given) * np.float32(np.nan))
    with pytest.raises(Problem, match="numbers of it that are none"):
        prove(student, gguf_of(student, tmp_path, "Q8_0"), examples, None)


def test_another_tokenizer_is_refused(student: Path, tmp_path: Path, examples: list[Example]) -> None:
    other = save_checkpoint(tmp_path / "other", tokens=560)
    with pytest.raises(Problem, match="otherwise than the student"):
        prove(student, gguf_of(other, tmp_path), examples, None)


def test_a_truncated_file_is_refused(student: Path, tmp_path: Path, examples: list[Example]) -> None:
    whole = gguf_of(student, tmp_path)
    whole.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(Problem, match=r"made\.gguf"):
        prove(student, whole, examples, TOLERANCE)
