"""A GGUF becomes the checkpoint it was made from.

In:  tiny models of every family, written as GGUF.
Out: the same weights, configuration and token ids; a Problem for what can't be carried over.
Does not know: where GGUFs come from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from potstill.models import architecture
from potstill.models.convert import configuration, convert_gguf, is_converted, read_tokenizer
from potstill.models.gguf import write_gguf
from potstill.models.gguf_reader import read_table
from potstill.problem import Problem
from potstill.progress import Silent
from tiny import FAMILIES, SENTENCES, build_model, build_tokenizer, save_checkpoint


def round_trip(checkpoint: Path, folder: Path, quantisation: str = "F32") -> Path:
    gguf = folder / "model.gguf"
    write_gguf(checkpoint, gguf, quantisation, metadata={}, progress=Silent())
    convert_gguf(gguf, folder / "checkpoint", "hash", Silent())
    return folder / "checkpoint"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_configuration_come_back(family: str, tied: bool, tmp_path: Path) -> None:
    original = save_checkpoint(tmp_path / "original", family=family, tie_word_embeddings=tied)

    converted = round_trip(original, tmp_path)

    expected = load_file(original / "model.safetensors")
    found = load_file(converted / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight.bfloat16()) for name, weight in expected.items())
    before, after = (AutoConfig.from_pretrained(folder) for folder in (original, converted))
    assert architecture.hyperparameters(after) == architecture.hyperparameters(before)
    assert after.tie_word_embeddings is tied
    assert after.architectures == before.architectures
    assert not hasattr(after, "quantization_config")


def test_biases_of_a_llama_come_back(tmp_path: Path) -> None:
    original = save_checkpoint(tmp_path / "original", family="llama", attention_bias=True, mlp_bias=True)

    config = AutoConfig.from_pretrained(round_trip(original, tmp_path))

    assert config.attention_bias
    assert config.mlp_bias


def test_transformers_reads_the_same_model_out_of_the_gguf(tiny_gguf: Path, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32)
    convert_gguf(tiny_gguf, tmp_path / "checkpoint", "hash", Silent())
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)

    ids = torch.arange(40)[None] * 7
    with torch.no_grad():
        difference = (theirs(ids).logits - ours(ids).logits).abs().max()
        scale = theirs(ids).logits.abs().max()
    assert difference < 0.02 * scale  # bfloat16 keeps eight bits


def test_a_finer_copy_of_the_tied_matrix_becomes_the_embedding(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, tie_word_embeddings=False)
    with torch.no_grad():
        coarse = model.model.embed_tokens.weight
        coarse.copy_(model.lm_head.weight + 0.01 * torch.randn_like(coarse))
    model.save_pretrained(tmp_path / "original")
    tokenizer.save_pretrained(tmp_path / "original")

    converted = round_trip(tmp_path / "original", tmp_path)

    state = load_file(converted / "model.safetensors")
    assert AutoConfig.from_pretrained(converted).tie_word_embeddings
    assert "lm_head.weight" not in state
    assert torch.equal(state["model.embed_tokens.weight"], model.lm_head.weight.bfloat16())


def test_the_tokenizer_comes_back_with_its_special_tokens(tiny_checkpoint: Path, tmp_path: Path) -> None:
    converted = AutoTokenizer.from_pretrained(round_trip(tiny_checkpoint, tmp_path))
    original = AutoTokenizer.from_pretrained(tiny_checkpoint)

    texts = [*SENTENCES, "<|im_start|>user\n1234 e\u0301<|im_end|>\n"]
    assert [converted(text).input_ids for text in texts] == [original(text).input_ids for text in texts]
    assert (converted.eos_token, converted.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert converted.chat_template == original.chat_template


def test_what_ends_an_answer_is_written_down(tiny_checkpoint: Path, tiny_tokenizer, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(round_trip(tiny_checkpoint, tmp_path))

    ends = [tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id]
    assert model.generation_config.eos_token_id == ends


def test_smollm_takes_digits_one_by_one(tiny_gguf: Path) -> None:
    table = read_table(tiny_gguf)
    changed = replace(table, metadata={**table.metadata, "tokenizer.ggml.pre": "smollm"})

    split = read_tokenizer(tiny_gguf, changed).backend_tokenizer.pre_tokenizer.pre_tokenize_str("ab12 cd")

    assert [piece for piece, _ in split] == ["ab", "1", "2", "Ġcd"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("qwen2.rope.scaling.type", "yarn", "yarn"),
        ("general.architecture", "mamba", "mamba"),
        ("qwen2.block_count", None, "qwen2.block_count"),
    ],
)
def test_a_header_that_cannot_be_carried_over_is_refused(tiny_gguf: Path, key: str, value: str, said: str) -> None:
    table = read_table(tiny_gguf)
    metadata = {name: old for name, old in {**table.metadata, key: value}.items() if old is not None}

    with pytest.raises(Problem, match=said):
        configuration(replace(table, metadata=metadata), tiny_gguf)


def test_an_unknown_way_to_split_text_is_refused(tiny_gguf: Path) -> None:
    table = read_table(tiny_gguf)
    changed = replace(table, metadata={**table.metadata, "tokenizer.ggml.pre": "tekken"})

    with pytest.raises(Problem, match="tekken"):
        read_tokenizer(tiny_gguf, changed)


def test_a_conversion_is_known_by_the_hash_it_was_made_from(tiny_gguf: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    convert_gguf(tiny_gguf, checkpoint, "one", Silent())

    assert is_converted(checkpoint, "one")
    assert not is_converted(checkpoint, "another")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert not is_converted(checkpoint, "one")


def test_a_conversion_that_was_killed_leaves_nothing_that_looks_whole(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", lambda *_, **__: killed())
        with pytest.raises(KeyboardInterrupt):
            convert_gguf(tiny_gguf, tmp_path / "checkpoint", "hash", Silent())
    assert not (tmp_path / "checkpoint").exists()

    convert_gguf(tiny_gguf, tmp_path / "checkpoint", "hash", Silent())
    assert is_converted(tmp_path / "checkpoint", "hash")
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint"]
