"""Heads that fit: counted by family, narrowed only for Phi-3, their frequencies kept to the digit."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config, PreTrainedConfig, Qwen2Config, Qwen3Config

from potstill.models.anatomy import body
from potstill.problem import Problem
from potstill.prune.basis import Basis
from potstill.prune.choose import keep_heads
from potstill.prune.cut import Kept, cut_layer
from potstill.prune.heads import HeadShape, choose_heads, cut_rotary, kept_numbers
from potstill.prune.shape import choose_shape, count_parameters, student_config
from potstill.recipe import PruneSection
from tiny import FAMILIES, build_model, build_tokenizer

PHI3_MINI = Phi3Config()
QWEN = Qwen2Config(hidden_size=896, num_attention_heads=14, num_key_value_heads=2)
QWEN3 = Qwen3Config(hidden_size=1024, num_attention_heads=16, num_key_value_heads=8, head_dim=128)


def wish(**wanted: object) -> PruneSection:
    return PruneSection.model_validate({"layers": None, "parameters": None, **wanted})


@pytest.mark.parametrize(
    ("config", "hidden", "expected"),
    [
        (PHI3_MINI, 3072, HeadShape(32, 32, 96)),
        (PHI3_MINI, 1024, HeadShape(16, 16, 64)),  # 1024 does not divide by 96
        (PHI3_MINI, 960, HeadShape(10, 10, 96)),
        (QWEN, 896, HeadShape(14, 2, 64)),
        (QWEN, 768, HeadShape(12, 2, 64)),
        (QWEN3, 768, HeadShape(12, 6, 128)),
    ],
)
def test_heads_follow_the_hidden_width(config: PreTrainedConfig, hidden: int, expected: HeadShape) -> None:
    assert choose_heads(config, hidden, None, None) == expected


def test_heads_may_be_asked_for() -> None:
    assert choose_heads(PHI3_MINI, 1024, 32, None) == HeadShape(32, 32, 32)
    assert choose_heads(QWEN, 768, None, 2) == HeadShape(12, 2, 64)
    assert choose_heads(QWEN3, 1024, 8, 4) == HeadShape(8, 4, 128)


@pytest.mark.parametrize(
    ("config", "asked", "said"),
    [
        (QWEN, (800, None, None), "multiples of 64"),
        (QWEN, (896, 12, None), "14 over 2"),
        (QWEN, (768, None, 1), r"prune\.kv_heads = 1"),
        (PHI3_MINI, (1024, 7, None), "16 over 16"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    config: PreTrainedConfig, asked: tuple[int, int | None, int | None], said: str
) -> None:
    with pytest.raises(Problem, match=said):
        choose_heads(config, *asked)


def test_the_published_student_and_a_small_one() -> None:
    published = choose_shape(PHI3_MINI, 32064, wish(layers=12, hidden=1024, parameters=150_000_000))
    assert (published.layers, published.hidden, published.heads, published.head) == (12, 1024, 16, 64)
    assert count_parameters(PHI3_MINI, published) == pytest.approx(150e6, rel=0.01)
    teacher = copy.deepcopy(QWEN)
    teacher.intermediate_size, teacher.num_hidden_layers, teacher.tie_word_embeddings = 4864, 24, True
    for layers in (12, 16):
        for hidden in (896, 768):
            small = choose_shape(teacher, 32768, wish(layers=layers, hidden=hidden, parameters=80_000_000))
            assert count_parameters(teacher, small) == pytest.approx(80e6, rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("biased", [False, True])
def test_parameters_are_counted_to_the_last_one(family: str, biased: bool) -> None:
    biases = {"qwen3": {"attention_bias": biased}, "llama": {"attention_bias": biased, "mlp_bias": biased}}
    config = build_model(build_tokenizer(), family=family, **biases.get(family, {})).config
    spec = choose_shape(config, 608, wish(layers=3, hidden=32, ffn=64))
    student = AutoModelForCausalLM.from_config(student_config(config, spec, None))
    assert sum(parameter.numel() for parameter in student.parameters()) == count_parameters(config, spec)


def test_narrowed_heads_keep_the_frequencies_of_their_pairs() -> None:
    for rope in (
        {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        {
            **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 128},
            "short_factor": [1.0 + 0.1 * place for place in range(24)],
            "long_factor": [2.0 + place for place in range(24)],
        },
    ):
        model = build_model(
            build_tokenizer(),
            family="phi3",
            hidden_size=288,
            num_attention_heads=6,
            num_key_value_heads=6,
            rope_parameters=rope,
        )
        student = copy.deepcopy(model.config)
        cut_rotary(student, HeadShape(3, 3, 32))
        student.hidden_size, student.num_attention_heads, student.num_key_value_heads = 96, 3, 3
        ours, theirs = body(AutoModelForCausalLM.from_config(student)).rotary_emb, body(model).rotary_emb
        kept = kept_numbers(48, 32, float(rope.get("partial_rotary_factor", 1.0)))[: len(ours.inv_freq)]
        torch.testing.assert_close(ours.inv_freq, theirs.inv_freq[kept])
        assert ours.attention_scaling == theirs.attention_scaling


def test_pairs_stay_pairs() -> None:
    assert kept_numbers(8, 4, 1.0) == [0, 2, 4, 6]
    assert kept_numbers(16, 8, 0.5) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert kept_numbers(6, 6, 1.0) == [0, 1, 2, 3, 4, 5]


def test_the_loudest_heads_of_the_loudest_groups_stay() -> None:
    """Three groups of two heads of two numbers."""
    columns = torch.tensor([0.0, 1.0, 5.0, 0.0, 0.1, 0.0, 0.0, 0.1, 3.0, 0.0, 0.0, 4.0])
    choice = keep_heads(columns, HeadShape(6, 3, 2), HeadShape(2, 2, 2))
    assert (choice.heads.tolist(), choice.groups.tolist()) == ([1, 5], [0, 2])
    choice = keep_heads(columns, HeadShape(6, 3, 2), HeadShape(4, 2, 1))
    assert (choice.heads.tolist(), choice.groups.tolist()) == ([0, 1, 4, 5], [0, 2])
    assert choice.values.tolist() == [[0], [1]]  # what a group's heads write together decides


def test_fused_rows_land_where_they_should() -> None:
    """Every row holds its own number, so that a row from the wrong part of a fused projection shows."""
    layer = build_model(build_tokenizer(), family="phi3").model.layers[0]  # 4 heads of 16 over 2, 96 neurons
    with torch.no_grad():
        layer.self_attn.qkv_proj.weight.copy_(torch.arange(128.0)[:, None].expand(-1, 64))
        layer.mlp.gate_up_proj.weight.copy_(torch.arange(192.0)[:, None].expand(-1, 64))
        layer.self_attn.o_proj.weight.copy_(torch.arange(64.0).expand(64, -1))
        layer.mlp.down_proj.weight.copy_(torch.arange(96.0).expand(64, -1))
    kept = Kept(
        neurons=torch.tensor([3, 90]),
        queries=torch.tensor([16, 17]),
        keys=torch.tensor([0, 31]),
        values=torch.tensor([5, 6]),
        columns=torch.tensor([20, 63]),
        query_scale=0.5,
        ratios={"input_layernorm": 1.0, "post_attention_layernorm": 2.0},
    )
    dimensions = torch.tensor([1, 40])
    state = cut_layer(layer, kept, HeadShape(4, 2, 16), Basis.of_dimensions(dimensions, 64))
    assert state["self_attn.qkv_proj.weight"].tolist() == [[row] * 2 for row in (8, 8.5, 64, 95, 101, 102)]
    assert state["mlp.gate_up_proj.weight"].tolist() == [[row] * 2 for row in (3, 90, 99, 186)]
    assert state["self_attn.o_proj.weight"].tolist() == [[20, 63]] * 2
    assert state["mlp.down_proj.weight"].tolist() == [[3, 90]] * 2
    assert torch.equal(state["input_layernorm.weight"], layer.input_layernorm.weight[dimensions])
    assert torch.equal(state["post_attention_layernorm.weight"], 2 * layer.post_attention_layernorm.weight[dimensions])
