"""A trained adapter as a GGUF: with its file it says what the merged model says; off, it is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from potstill.models.engine import Engine, default_threads
from potstill.models.gguf import write_gguf
from potstill.models.gguf_adapter import (
    Parts,
    adapter_path,
    named_adapters,
    parts_of,
    write_lora_adapter,
    write_row_adapter,
)
from potstill.models.gguf_reader import read_metadata
from potstill.models.llama import LlamaReader
from potstill.models.lora import Lora, merge_lora, read_lora, write_lora
from potstill.models.mix import Mix
from potstill.problem import Problem
from potstill.progress import Silent
from tiny import VOCABULARY, save_checkpoint

IDS = np.random.default_rng(0).integers(0, 600, 40).tolist()


def some_lora(checkpoint: Path, rank: int = 4) -> Lora:
    """On every linear layer of the body, large enough to be seen."""
    random = torch.Generator().manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            down, up = ((rank, module.in_features), (module.out_features, rank))
            layers[name] = tuple((0.1 * torch.randn(shape, generator=random)).half().float() for shape in (down, up))
    return Lora(8.0, layers)


def logits(gguf: Path) -> np.ndarray:
    with LlamaReader(gguf, context=64, threads=1, exact=True) as reader:
        return reader.logits(IDS)


def merged_logits(checkpoint: Path, lora: Lora) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32").eval()
    merge_lora(model, lora)
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3", "phi3"])
def test_file_and_adapter_are_the_merged_model(tmp_path: Path, family: str) -> None:
    """In float32, so that nothing but a wrong name, scale or order of rows could tell them apart."""
    checkpoint, gguf = save_checkpoint(tmp_path / "checkpoint", family=family), tmp_path / "tiny.gguf"
    write_gguf(checkpoint, gguf, "F32", metadata={}, progress=Silent())
    alone, before = logits(gguf), gguf.read_bytes()
    lora = some_lora(checkpoint)
    write_lora_adapter(adapter_path(gguf, "code"), lora, checkpoint, {"fingerprint": "f", "general.name": "n"})
    expected = merged_logits(checkpoint, lora)
    assert np.abs(expected - alone).max() > 1
    assert np.abs(logits(adapter_path(gguf, "code")) - expected).max() < 0.02
    assert np.array_equal(logits(gguf), alone) and gguf.read_bytes() == before  # beside it, and not switched on
    header = read_metadata(adapter_path(gguf, "code"))
    assert (header["adapter.lora.alpha"], header["potstill.fingerprint"], header["general.name"]) == (8.0, "f", "n")


def test_both_kinds_of_adapter_go_together(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The one that mends the head is loaded whether or not the named one is."""
    gguf = tmp_path / "guarded.gguf"
    mix = Mix("mix", "F32", {"output": "F32"})
    write_gguf(tiny_checkpoint, gguf, mix, metadata={}, progress=Silent(), untied=True)
    lora = some_lora(tiny_checkpoint)
    code = adapter_path(gguf, "code")
    write_lora_adapter(code, lora, tiny_checkpoint, {})
    plain = logits(code)
    head = load_file(tiny_checkpoint / "model.safetensors")["model.embed_tokens.weight"].numpy()
    write_row_adapter(adapter_path(gguf), "qwen2", [7], head[[7]], VOCABULARY)
    both = logits(code)
    assert parts_of(code).adapters == (adapter_path(gguf), code)
    assert np.abs(both[:, 7] - 2 * plain[:, 7]).max() < 0.05
    assert np.array_equal(np.delete(both, 7, axis=1), np.delete(plain, 7, axis=1))
    with Engine(code, context=64, slots=1, threads=default_threads(1)) as engine:
        assert engine.count_tokens("def add") > 0


def test_which_files_are_loaded(tmp_path: Path) -> None:
    model = tmp_path / "demo-1.5-Q4_0.gguf"
    code, guard = adapter_path(model, "code"), adapter_path(model)
    for path in (model, code, tmp_path / "demo-1.gguf", tmp_path / "demo-1.5-Q8_0.code.adapter.gguf"):
        path.write_bytes(b"four")
    assert code.name == "demo-1.5-Q4_0.code.adapter.gguf"
    assert parts_of(model).adapters == () and parts_of(code) == Parts(model, (code,))
    assert parts_of(code).bytes == 8
    assert named_adapters(model) == {"code": code} and named_adapters(tmp_path / "demo-1.gguf") == {}
    guard.write_bytes(b"guard")
    assert parts_of(model).adapters == (guard,) and parts_of(code).adapters == (guard, code)
    assert named_adapters(model) == {"code": code}


@pytest.mark.parametrize("name", ["absent.code.adapter.gguf", "lonely.code.adapter.gguf", "demo.adapter.gguf"])
def test_an_adapter_without_its_model_is_refused(tmp_path: Path, name: str) -> None:
    for path in ("lonely.code.adapter.gguf", "demo.gguf", "demo.adapter.gguf"):
        (tmp_path / path).write_bytes(b"four")
    with pytest.raises(Problem, match="no adapter with its model beside it"):
        parts_of(tmp_path / name)


def test_on_disk_and_back(tiny_checkpoint: Path, tmp_path: Path) -> None:
    lora = some_lora(tiny_checkpoint)
    write_lora(lora, tmp_path, "mark")
    found = read_lora(tmp_path)
    assert (found.alpha, found.rank, found.layers.keys()) == (lora.alpha, lora.rank, lora.layers.keys())
    assert all(
        torch.equal(a, b) for name in lora.layers for a, b in zip(found.layers[name], lora.layers[name], strict=True)
    )
    whole = (tmp_path / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(Problem, match="no adapter can be read"):
        read_lora(tmp_path)


def test_an_adapter_of_another_student_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    lora = some_lora(tiny_checkpoint)
    other = {"model.layers.9.mlp.up_proj": lora.layers["model.layers.0.mlp.up_proj"]}
    with pytest.raises(ValueError, match=r"layers\.9"):
        write_lora_adapter(tmp_path / "a.gguf", Lora(8.0, other), tiny_checkpoint, {})
