"""Mixes: a name or a table becomes a type for every tensor, in the plan and in the file."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from potstill.models.gguf import write_gguf
from potstill.models.gguf_reader import load_state, read_metadata, read_table
from potstill.models.mix import GROUPS, LLAMA_MIXES, Mix, group_of, mix_named, name_of, stem_of
from potstill.models.quantise import QUANTISATIONS, plan_types, predicted_bytes, tensor_bytes
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.recipe import Quantisation, product
from tiny import build_model, build_tokenizer

LAYERS = 16
PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
WIDE = {"token_embd": (512, 768)} | {f"blk.{n}.{part}": (768, 768) for n in range(LAYERS) for part in PARTS}


def with_suffix(shapes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def test_a_composed_name_changes_its_groups_alone() -> None:
    plan = plan_types(with_suffix(WIDE), "Q4_0-embedding-Q8_0-ffn_down-F16")
    assert plan["token_embd.weight"] == "Q8_0"
    assert {kind for name, kind in plan.items() if "ffn_down" in name} == {"F16"}
    assert {kind for name, kind in plan.items() if "attn" in name or "ffn_up" in name or "gate" in name} == {"Q4_0"}


@pytest.mark.parametrize("kinds", [("Q8_0", "Q4_0", "Q4_0", "Q4_0"), ("F16",) * 4, ("Q4_0", "Q5_0", "Q8_0", "F16")])
def test_a_name_says_all_of_a_mix(kinds: tuple[str, ...]) -> None:
    wanted = dict(zip(GROUPS, kinds, strict=True))
    mix = mix_named(name_of(wanted), [])
    stems = {"embedding": "token_embd", "attention": "blk.1.attn_k", "ffn_in": "blk.2.ffn_gate"}
    assert {group: mix.type_of(stem) for group, stem in stems.items()} | {
        "ffn_down": mix.type_of("blk.0.ffn_down")
    } == wanted


def test_llamas_own_mix_gives_more_bits_to_the_ends_and_every_third_layer() -> None:
    plan = plan_types(with_suffix(WIDE), "Q4_K_M")
    assert plan["token_embd.weight"] == "Q6_K"
    for part in ("attn_v", "ffn_down"):
        larger = [n for n in range(LAYERS) if plan[f"blk.{n}.{part}.weight"] == "Q6_K"]
        assert larger == [0, 1, 4, 7, 10, 13, 14, 15]
    assert {plan[f"blk.{n}.attn_q.weight"] for n in range(LAYERS)} == {"Q4_K"}
    with_head = plan_types({**with_suffix(WIDE), "output.weight": (512, 768)}, "Q4_K_M")
    assert with_head["output.weight"] == "Q6_K" and with_head["token_embd.weight"] == "Q4_K"


def test_rows_that_do_not_divide_fall_back_in_a_mix_too() -> None:
    plan = plan_types({"token_embd.weight": (512, 896), "blk.0.attn_output.weight": (896, 1024)}, "Q4_K_M")
    assert plan == {"token_embd.weight": "Q8_0", "blk.0.attn_output.weight": "Q4_K"}


def test_of_a_table_the_first_pattern_that_fits_counts() -> None:
    mix = Mix("mine", "Q4_0", {"blk.0.attn_*": "F16", "attn_v": "Q8_0"})
    plan = plan_types(with_suffix(WIDE), mix)
    assert plan["blk.0.attn_v.weight"] == plan["blk.0.attn_q.weight"] == "F16"
    assert plan["blk.3.attn_v.weight"] == "Q8_0" and plan["blk.3.attn_q.weight"] == "Q4_0"


def test_a_table_that_names_nothing_is_refused() -> None:
    with pytest.raises(Problem, match=r"'attn_vv', and no tensor is called so"):
        plan_types(with_suffix(WIDE), Mix("mine", "Q4_0", {"attn_vv": "Q8_0"}))


@pytest.mark.parametrize("name", ["Q4_0-embedding", "Q4_0-head-Q8_0", "Q4_0-embedding-Q9_0", "Q4_X"])
def test_a_name_that_is_no_mix_is_refused(name: str) -> None:
    with pytest.raises(Problem, match="is not a GGUF type we write"):
        plan_types(with_suffix(WIDE), name)


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3", "phi3"])
def test_every_matrix_of_every_family_is_in_a_group(family: str) -> None:
    model = build_model(build_tokenizer(), family=family, num_hidden_layers=1)
    for name, weight in model.named_parameters():
        assert (group_of(stem_of(name)) is not None) or weight.dim() == 1, name
    assert stem_of("blk.3.attn_v.weight") == "blk.3.attn_v"


@pytest.mark.parametrize(
    ("quantisation", "file_type"), [("IQ4_NL", 25), ("Q4_1", 3), ("Q4_K_M", 15), ("Q4_0-embedding-Q8_0", 2)]
)
def test_a_written_file_holds_what_was_planned(
    tiny_checkpoint: Path, tmp_path: Path, quantisation: str, file_type: int
) -> None:
    path = tmp_path / "mixed.gguf"
    write_gguf(tiny_checkpoint, path, quantisation, metadata={}, progress=Silent())
    tensors = read_table(path).tensors
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert {name: tensor.type_name for name, tensor in tensors.items()} == plan_types(shapes, quantisation)
    assert read_metadata(path)["general.file_type"] == file_type


def test_an_untied_file_holds_the_head_twice(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "untied.gguf"
    mix = Mix("heads", "F32", {"output": "Q4_0"})
    write_gguf(tiny_checkpoint, path, mix, metadata={}, progress=Silent(), untied=True)
    state, tensors = load_state(path), read_table(path).tensors
    assert tensors["token_embd.weight"].type_name == "F32" and tensors["output.weight"].type_name == "Q4_0"
    step = abs(state["model.embed_tokens.weight"]).max() / 7
    assert 0 < abs(state["model.embed_tokens.weight"] - state["lm_head.weight"]).max() <= step


def test_predicted_bytes_add_up_over_a_mix() -> None:
    plan = plan_types(with_suffix(WIDE), "Q5_K_M")
    tensors = sum(tensor_bytes(shape, plan[f"{name}.weight"]) for name, shape in WIDE.items())
    assert predicted_bytes(with_suffix(WIDE), "Q5_K_M") == tensors


def test_the_recipe_knows_the_same_names() -> None:
    """The recipe imports nothing of ours, so it spells them out."""
    assert set(get_args(Quantisation)) == set(QUANTISATIONS) - {"F32", "BF16"}
    assert tuple(GROUPS) == product.GROUPS and tuple(LLAMA_MIXES) == product.LLAMA_MIXES
