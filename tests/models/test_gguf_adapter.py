"""An adapter beside a file: the rows it names come back to float, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from potstill.models.engine import Engine, Sampling, default_threads
from potstill.models.gguf import write_gguf
from potstill.models.gguf_adapter import adapter_beside, adapter_path, write_row_adapter
from potstill.models.gguf_reader import load_state
from potstill.models.llama import LlamaReader
from potstill.models.mix import Mix
from potstill.problem import Problem
from potstill.progress import Silent
from tiny import VOCABULARY

ROWS = [3, 5, 77, 300, *range(400, 440)]
OTHERS = sorted(set(range(VOCABULARY)) - set(ROWS))
IDS = np.random.default_rng(0).integers(0, 600, 40).tolist()


def logits(gguf: Path) -> np.ndarray:
    with LlamaReader(gguf, context=64, threads=1, exact=True) as reader:
        return reader.logits(IDS)


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float body under a head in Q4_0 without an adapter (plain), with one (guarded), under one in F16 (exact)."""
    folder = tmp_path_factory.mktemp("guard")
    for name, head in (("plain", "Q4_0"), ("exact", "F16")):
        mix = Mix(name, "F32", {"output": head})
        write_gguf(tiny_checkpoint, folder / f"{name}.gguf", mix, metadata={}, progress=Silent(), untied=True)
    guarded = Path(shutil.copyfile(folder / "plain.gguf", folder / "guarded.gguf"))
    exact = load_file(tiny_checkpoint / "model.safetensors")["model.embed_tokens.weight"].numpy()
    residual = exact[ROWS] - load_state(guarded)["lm_head.weight"][ROWS]
    write_row_adapter(adapter_path(guarded), "qwen2", ROWS, residual, VOCABULARY)
    return folder


def test_all_other_rows_stay_as_they_are_to_the_bit(folder: Path) -> None:
    plain, guarded = logits(folder / "plain.gguf"), logits(folder / "guarded.gguf")
    assert np.array_equal(plain[:, OTHERS], guarded[:, OTHERS])
    assert np.abs(plain - guarded)[:, ROWS].max() > 0.1


def test_guarded_rows_are_those_of_a_head_in_16_bit(folder: Path) -> None:
    """What is left is the rounding of the activations to 8 bits, which a Q4_0 product does and an F16 one doesn't."""
    plain, guarded, exact = (logits(folder / f"{name}.gguf")[:, ROWS] for name in ("plain", "guarded", "exact"))
    before, after = (np.sqrt(np.square(found - exact).mean()) for found in (plain, guarded))
    assert after < before / 10


def test_an_engine_writes_with_the_adapter(folder: Path, tmp_path: Path) -> None:
    """A row that is raised by far wins every time: only an engine that loaded the adapter writes it."""
    gguf = Path(shutil.copyfile(folder / "exact.gguf", tmp_path / "loud.gguf"))
    greedy = Sampling(0.0, 1.0, 0, 0, 4, 1.0)
    messages = [{"role": "user", "content": "hi"}]
    with Engine(gguf, context=64, slots=1, threads=default_threads(1)) as engine:
        before = engine.reply(messages, greedy).text
    head = load_state(gguf)["lm_head.weight"]
    with LlamaReader(gguf, context=64, threads=1) as reader:
        wanted = reader.tokenize("def")[-1]
    residual = 50 * head[[reader_token(gguf, messages)]] - head[[wanted]]
    write_row_adapter(adapter_path(gguf), "qwen2", [wanted], residual, VOCABULARY)
    assert adapter_beside(gguf) == tmp_path / "loud.adapter.gguf"
    with Engine(gguf, context=64, slots=1, threads=default_threads(1)) as engine:
        after = engine.reply(messages, greedy).text
    assert after != before


def reader_token(gguf: Path, messages: list[dict[str, str]]) -> int:
    """The token that the model writes first."""
    with Engine(gguf, context=64, slots=1, threads=default_threads(1)) as engine:
        ids = engine.prompt_ids(messages)
    with LlamaReader(gguf, context=64, threads=1) as reader:
        return int(reader.logits(ids)[-1].argmax())


def test_an_adapter_of_another_model_is_refused(tiny_gguf: Path, folder: Path, tmp_path: Path) -> None:
    """A tied model has no head to adapt."""
    gguf = Path(shutil.copyfile(tiny_gguf, tmp_path / "tied.gguf"))
    shutil.copyfile(folder / "guarded.adapter.gguf", adapter_path(gguf))
    with pytest.raises(Problem, match=r"can't use .*tied\.adapter\.gguf"):
        LlamaReader(gguf, context=64, threads=1)


def test_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        write_row_adapter(tmp_path / "a.gguf", "qwen2", [VOCABULARY], np.zeros((1, 64), np.float32), VOCABULARY)
    with pytest.raises(ValueError, match="do not fit"):
        write_row_adapter(tmp_path / "a.gguf", "qwen2", [1, 1], np.zeros((2, 64), np.float32), VOCABULARY)
