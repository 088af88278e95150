"""Hidden width: what nobody uses is cut without a trace, a rotation changes nothing, healing helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from potstill.models.anatomy import body, decoder_layers
from potstill.models.checkpoint import save_checkpoint
from potstill.models.gguf import write_gguf
from potstill.models.llama import LlamaReader
from potstill.models.teacher import load_model
from potstill.progress import Silent
from potstill.prune.basis import Basis, choose_basis
from potstill.prune.heads import kept_numbers
from prune.cutting import calibration, confine_stream, cut_student, difference
from tiny import FAMILIES, build_model, build_phi3_tokenizer, build_tokenizer, save_phi3

UNUSED = torch.arange(64) % 2 == 0


def silence_heads(model: PreTrainedModel, heads: list[int], width: int) -> None:
    with torch.no_grad():
        for layer in decoder_layers(model):
            for head in heads:
                layer.self_attn.o_proj.weight[:, head * width : (head + 1) * width] = 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("narrow", "tied"), [("crop", True), ("crop", False), ("rotate", False)])
def test_dimensions_and_heads_nobody_uses_are_cut_without_a_trace(family: str, narrow: str, tied: bool) -> None:
    model = build_model(build_tokenizer(), family=family, tie_word_embeddings=tied)
    confine_stream(model, torch.diag((~UNUSED).float()))
    silence_heads(model, [1, 2], model.model.layers[0].self_attn.head_dim)
    student = cut_student(model, hidden=32, heads=2, narrow=narrow)
    assert student.config.num_attention_heads == 2 and student.config.hidden_size == 32
    assert difference(model, student) < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_rotation_without_cutting_leaves_the_logits(family: str) -> None:
    model = build_model(build_tokenizer(), family=family, tie_word_embeddings=False)
    student = cut_student(model, narrow="rotate")
    assert not torch.allclose(student.model.layers[0].mlp.down_proj.weight, model.model.layers[0].mlp.down_proj.weight)
    assert difference(model, student) < 1e-3


def test_a_rotation_finds_a_subspace_that_a_crop_misses() -> None:
    model = build_model(build_tokenizer(), tie_word_embeddings=False)
    silence_heads(model, [1, 2], 16)
    half = torch.linalg.qr(torch.randn(64, 32, generator=torch.Generator().manual_seed(5))).Q
    confine_stream(model, half @ half.T)
    cropped, rotated = (
        difference(model, cut_student(model, hidden=32, narrow=narrow)) for narrow in ("crop", "rotate")
    )
    assert rotated < 1e-3 < 0.1 < cropped


def test_a_tied_rotation_is_exact_where_the_last_norm_is_even() -> None:
    model = build_model(build_tokenizer())
    with torch.no_grad():
        body(model).norm.weight.fill_(1.3)
    assert difference(model, cut_student(model, narrow="rotate")) < 1e-3


def test_a_healed_tied_rotation_is_as_sure_as_its_base() -> None:
    """Healed, the stream before the last norm is another one, and so is the RMS that the norm divides by."""
    model = build_model(build_tokenizer(), intermediate_size=1024)  # enough to say whatever it is healed to say
    with torch.no_grad():
        body(model).norm.weight.copy_(torch.linspace(-0.5, 3.0, 64))
    ids = calibration(model.config.vocab_size)[0][0][:1]
    with torch.no_grad():
        theirs, ours = (one(ids).logits for one in (model, cut_student(model, 1e-3, narrow="rotate")))
    assert 0.9 < float((theirs * ours).sum() / theirs.square().sum()) < 1.05  # 0.73 by the RMS of narrowed states


@pytest.mark.parametrize("narrow", ["crop", "rotate"])
def test_healing_finds_in_the_narrowed_stream_what_other_neurons_can_say(narrow: str) -> None:
    """Every neuron has a quieter twin: cutting the twins loses what they wrote, healing finds all of it."""
    model = build_model(build_tokenizer(), intermediate_size=64, tie_word_embeddings=False)
    with torch.no_grad():
        for layer in decoder_layers(model):
            for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
                projection.weight[32:] = projection.weight[:32]
            layer.mlp.down_proj.weight[:, 32:] *= 0.03
    confine_stream(model, torch.diag((~UNUSED).float()))
    silence_heads(model, [1, 2], 16)
    before, after = (
        difference(model, cut_student(model, ridge, hidden=32, ffn=32, narrow=narrow)) for ridge in (None, 1e-6)
    )
    assert before > 0.05
    assert after < 0.05 * before


def test_narrowed_phi3_heads_keep_what_is_said_and_where_it_looks() -> None:
    """Six heads of 48 become four of 32: everything the other numbers say is zero, so nothing is lost."""
    model = build_model(build_tokenizer(), family="phi3", hidden_size=288, num_attention_heads=6, num_key_value_heads=6)
    confine_stream(model, torch.diag((torch.arange(288) < 128).float()))
    silence_heads(model, [0, 5], 48)
    gone = torch.tensor([number for number in range(48) if number not in kept_numbers(48, 32, 1.0)])
    with torch.no_grad():
        for layer in decoder_layers(model):
            for head in range(6):
                layer.self_attn.qkv_proj.weight[head * 48 + gone] = 0
                layer.self_attn.qkv_proj.weight[(6 + head) * 48 + gone] = 0
                layer.self_attn.o_proj.weight[:, head * 48 + torch.arange(1, 33, 2)] = 0
    student = cut_student(model, hidden=128)
    assert student.model.layers[0].self_attn.head_dim == 32
    assert difference(model, student) < 5e-3


def test_a_cropped_phi3_is_the_same_model_in_llama_cpp(tmp_path: Path) -> None:
    base = save_phi3(tmp_path / "base")
    model = build_model(
        build_phi3_tokenizer(),
        **{"family": "phi3", "hidden_size": 288, "num_attention_heads": 6, "num_key_value_heads": 6},
        tie_word_embeddings=False,
    )
    student = cut_student(model, 0.01, hidden=128, layers=3, ffn=64)
    save_checkpoint(student, base, tmp_path / "student", torch.float16, "")
    write_gguf(tmp_path / "student", tmp_path / "student.gguf", "F16", metadata={}, progress=Silent())
    ids = torch.randint(0, 600, (60,), generator=torch.Generator().manual_seed(1))
    with LlamaReader(tmp_path / "student.gguf", context=64, threads=1, exact=True) as reader:
        found = torch.from_numpy(reader.logits(ids.tolist()))
        assert reader.tokenize("请帮我写 a list") == build_phi3_tokenizer()("请帮我写 a list").input_ids
    with torch.no_grad():  # the same float16 weights
        expected = load_model(tmp_path / "student", torch.float32)(ids[None]).logits[0]
    assert student.config.rope_parameters["rope_type"] == "longrope"
    assert expected.std() > 0.3
    assert (found - expected).abs().max() < 0.01 * expected.std()


def test_the_dimensions_of_most_variance_stay() -> None:
    moment = torch.diag(torch.tensor([1.0, 5.0, 0.0, 5.0, 2.0]))
    cropped = choose_basis(moment, 3, rotate=False)
    assert cropped.kept is not None and cropped.kept.tolist() == [1, 3, 4]
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert cropped.narrow(rows).tolist() == [[2, 4, 5]]
    turned = choose_basis(moment, 3, rotate=True).narrow(rows).square()
    torch.testing.assert_close(turned.sum(), torch.tensor(4.0 + 16 + 25))


def test_the_norm_makes_up_for_the_width_it_averages_over() -> None:
    basis = Basis.of_dimensions(torch.arange(2), 8)
    rows = torch.tensor([[3.0, 4.0, 0, 0, 0, 0, 0, 0]])
    assert basis.rms_ratio(rows) == pytest.approx(2.0)
    assert basis.norm(torch.ones(8), 2.0).tolist() == [2.0, 2.0]
