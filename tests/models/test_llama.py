"""Logits and token ids from llama.cpp's C interface: the same as Transformers', and honest about bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from potstill.models import llama
from potstill.models.llama import LlamaReader, reason_for_refusal
from potstill.problem import Problem

TEXT = "<|im_start|>user\n请写一封邮件：hello 3.14 😀<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def reader(tiny_gguf: Path):
    with LlamaReader(tiny_gguf, context=400, threads=2) as opened:
        yield opened


def sequence(length: int) -> list[int]:
    return np.random.default_rng(length).integers(0, 600, length).tolist()


# longer than one chunk, exactly one, one more than one
@pytest.mark.parametrize("length", [1, 128, 129, 300])
def test_logits_are_those_of_transformers(reader: LlamaReader, tiny_model: PreTrainedModel, length: int) -> None:
    ids = sequence(length)
    with torch.no_grad():
        expected = tiny_model(torch.tensor([ids])).logits[0].numpy()

    actual = reader.logits(ids)

    assert actual.shape == (length, reader.vocabulary_size)
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("start", [1, 127, 128, 299])
def test_leaving_the_prompt_out_changes_no_row(reader: LlamaReader, start: int) -> None:
    ids = sequence(300)

    # one row alone is summed in another order than many
    np.testing.assert_allclose(reader.logits(ids, start), reader.logits(ids)[start:], rtol=0, atol=1e-5)


def test_a_sequence_leaves_nothing_behind(reader: LlamaReader) -> None:
    first = reader.logits(sequence(50))
    reader.logits(sequence(200))

    assert np.array_equal(reader.logits(sequence(50)), first)


def test_a_position_sees_only_what_precedes_it(reader: LlamaReader) -> None:
    ids = sequence(100)
    changed = [*ids[:60], (ids[60] + 1) % 600, *ids[61:]]

    before, after = reader.logits(ids), reader.logits(changed)

    assert np.array_equal(before[:60], after[:60])
    assert not np.allclose(before[60:], after[60:])


def test_a_likelihood_is_the_sum_over_the_whole_sequence(reader: LlamaReader) -> None:
    begin, continuations = sequence(150), [sequence(3), sequence(1), sequence(20)]

    found = reader.log_likelihoods(begin, continuations)

    for ids, value in zip(continuations, found, strict=True):
        rows = torch.from_numpy(reader.logits([*begin, *ids])).double()[len(begin) - 1 : -1].log_softmax(-1)
        assert value == pytest.approx(float(rows[np.arange(len(ids)), ids].sum()), abs=1e-4)
    assert reader.log_likelihoods(begin, continuations[::-1]) == pytest.approx(found[::-1], abs=1e-4)


def test_a_shared_beginning_changes_no_likelihood(reader: LlamaReader) -> None:
    prefix, tails, choices = sequence(40), [sequence(11), sequence(30), sequence(200)], [sequence(2), sequence(140)]
    alone = []
    for tail in tails:
        reader.logits(sequence(5))  # nothing is held any more
        alone.append(reader.log_likelihoods([*prefix, *tail], choices, shared=40))

    in_turn = [reader.log_likelihoods([*prefix, *tail], choices, shared=40) for tail in tails]
    backwards = [reader.log_likelihoods([*prefix, *tail], choices, shared=40) for tail in tails[::-1]]

    assert in_turn == alone == backwards[::-1]
    assert alone[0] == pytest.approx(reader.log_likelihoods([*prefix, *tails[0]], choices), abs=1e-3)


@pytest.mark.parametrize("text", [TEXT, "", "a", "  \n\n  x", "中文，标点。"])
def test_tokenize_is_the_checkpoint_s_tokenizer(reader: LlamaReader, tiny_checkpoint: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)

    assert reader.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_special_names_can_be_read_as_plain_text(reader: LlamaReader) -> None:
    assert len(reader.tokenize("<|im_end|>")) == 1
    assert len(reader.tokenize("<|im_end|>", special=False)) > 1


def test_what_is_out_of_range_is_refused(reader: LlamaReader) -> None:
    with pytest.raises(Problem, match="401 tokens long, the context 400"):
        reader.logits(sequence(401))
    for ids, start in [([0, 608], 0), ([-1], 0), ([], 0), ([1, 2], 2), ([1, 2], -1)]:
        with pytest.raises(ValueError, match=r"token ids|start"):
            reader.logits(ids, start)


def test_a_closed_reader_says_so(tiny_gguf: Path) -> None:
    reader = LlamaReader(tiny_gguf, context=16, threads=1)
    reader.close()
    reader.close()

    with pytest.raises(RuntimeError, match="closed"):
        reader.logits([1])


def test_files_llama_cpp_would_choke_on_are_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:-1000])
    text = tmp_path / "text.gguf"
    text.write_text("not a model, but long enough to be read as one")

    for path in (cut, text, tmp_path / "missing.gguf"):
        with pytest.raises(Problem, match=path.name):
            LlamaReader(path, context=16, threads=1)


def test_an_unknown_architecture_is_named(tiny_gguf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf.read_bytes().replace(b"qwen2", b"qwenX"))

    assert "qwenX" in reason_for_refusal(other)
    with pytest.raises(Problem, match="qwenX"):
        LlamaReader(other, context=16, threads=1)


def test_another_build_of_llama_cpp_is_recognised() -> None:
    parameters = llama._interface().llama_context_default_params()
    llama._compare(parameters, llama._CONTEXT_DEFAULTS)
    # as if a field had been added in front: everything stands four bytes later
    moved = type(parameters).from_buffer_copy(b"\0" * 4 + bytes(parameters)[:-4])

    with pytest.raises(Problem, match=r"n_ctx is 0 where 512"):
        llama._compare(moved, llama._CONTEXT_DEFAULTS)
