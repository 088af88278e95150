"""Rows become what llama.cpp's converter makes of them, or are refused; plans say what a file will hold."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.models.quantise import (
    FALLBACKS,
    QUANTISATIONS,
    plan_types,
    predicted_bytes,
    quantise_rows,
    tensor_bytes,
)
from potstill.problem import Problem

LEVELS = {"Q8_0": 127, "Q6_K": 32, "Q5_K": 16, "Q5_1": 15, "Q5_0": 16, "Q4_K": 8, "Q4_0": 8}
"""Steps between zero (or, for Q5_1, the smallest) and the largest number that a type can tell apart."""

STUDENT = {
    "model.embed_tokens.weight": (32768, 896),
    "model.layers.0.self_attn.q_proj.weight": (896, 896),
    "model.layers.0.self_attn.q_proj.bias": (896,),
    "model.layers.0.mlp.gate_proj.weight": (3072, 896),
    "model.layers.0.mlp.down_proj.weight": (896, 3072),
    "model.norm.weight": (896,),
}


def restored(rows: np.ndarray, type_name: str) -> np.ndarray:
    return dequantize(quantise_rows(rows, type_name), GGMLQuantizationType[type_name])


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_0"])
def test_rows_are_those_of_the_reference(type_name: str) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 512)).astype(np.float32)
    reference = dequantize(quantize(rows, GGMLQuantizationType[type_name]), GGMLQuantizationType[type_name])
    block = np.abs(rows).max(axis=1, keepdims=True)
    half_step = 0 if type_name not in LEVELS else 2 * block / LEVELS[type_name] / 2
    assert np.all(np.abs(restored(rows, type_name) - reference) <= half_step)


@pytest.mark.parametrize("type_name", sorted(LEVELS))
def test_error_stays_within_a_step(type_name: str) -> None:
    rows = np.random.default_rng(1).normal(size=(5, 512)).astype(np.float32)
    spread = np.abs(rows).max(axis=1, keepdims=True) * (2 if type_name == "Q5_1" else 1)
    assert np.all(np.abs(restored(rows, type_name) - rows) <= 1.25 * spread / LEVELS[type_name])


@pytest.mark.parametrize(("type_name", "lossless"), [("F32", np.float32), ("F16", np.float16), ("BF16", np.float16)])
def test_numbers_a_type_can_hold_come_back_exactly(type_name: str, lossless: type) -> None:
    rows = np.random.default_rng(2).integers(-64, 64, size=(3, 96)).astype(lossless).astype(np.float32)
    assert np.array_equal(restored(rows, type_name), rows)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    """Work is cut into pieces for several threads: a row must come out the same in any piece."""
    rows = np.random.default_rng(3).normal(size=(4200, 512)).astype(np.float32)
    whole = quantise_rows(rows, "Q4_K")
    for index in (0, 2047, 2048, 2049, 4199):
        assert np.array_equal(whole[index], quantise_rows(rows[index], "Q4_K"))


@pytest.mark.parametrize("type_name", [name for name in QUANTISATIONS if name not in ("F32", "F16", "BF16")])
def test_rows_that_do_not_divide_are_refused(type_name: str) -> None:
    block = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]][0]
    with pytest.raises(Problem, match=f"Rows of {block + block // 2} numbers"):
        quantise_rows(np.zeros((2, block + block // 2), np.float32), type_name)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(wrong: float) -> None:
    rows = np.zeros((2, 32), np.float32)
    rows[1, 3] = wrong
    with pytest.raises(Problem, match="not a finite number"):
        quantise_rows(rows, "Q8_0")


def test_numbers_too_large_for_float16_are_refused() -> None:
    rows = np.full((1, 32), 1e5, np.float32)
    with pytest.raises(Problem, match="does not fit into F16"):
        quantise_rows(rows, "F16")
    assert np.array_equal(restored(rows, "F32"), rows)


def test_a_plan_names_the_fallbacks() -> None:
    plan = plan_types(STUDENT, "Q4_K")
    assert plan["model.layers.0.self_attn.q_proj.bias"] == plan["model.norm.weight"] == "F32"
    assert plan["model.layers.0.mlp.down_proj.weight"] == "Q4_K"  # 3072 = 12 × 256
    assert plan["model.layers.0.mlp.gate_proj.weight"] == "Q5_0"  # 896 = 28 × 32
    assert plan["model.embed_tokens.weight"] == "Q5_0"


@pytest.mark.parametrize(("quantisation", "fallback"), [*FALLBACKS.items(), ("Q4_0", "Q4_0"), ("F16", "F16")])
def test_rows_of_896_take_the_next_larger_type(quantisation: str, fallback: str) -> None:
    assert plan_types({"a.weight": (4, 896)}, quantisation) == {"a.weight": fallback}
    assert plan_types({"a.weight": (4, 768)}, quantisation) == {"a.weight": quantisation}


@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_0", "Q4_K", "F16"])
def test_rows_that_divide_by_nothing_become_float16(quantisation: str) -> None:
    assert plan_types({"a.weight": (4, 100)}, quantisation) == {"a.weight": "F16"}


def test_an_unknown_quantisation_is_answered_with_the_known_ones() -> None:
    with pytest.raises(Problem, match=r"Q4_X.*Q4_0"):
        plan_types(STUDENT, "Q4_X")


@given(
    rows=st.integers(1, 50),
    width=st.sampled_from([32, 96, 100, 256, 896, 1024]),
    quantisation=st.sampled_from(QUANTISATIONS),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_can_always_be_carried_out(rows: int, width: int, quantisation: str) -> None:
    type_name = plan_types({"a": (rows, width)}, quantisation)["a"]
    assert quantise_rows(np.ones((rows, width), np.float32), type_name).nbytes == tensor_bytes((rows, width), type_name)


def test_predicted_bytes_follow_the_types() -> None:
    matrices = {name: shape for name, shape in STUDENT.items() if len(shape) == 2 and "embed" not in name}
    numbers = sum(rows * width for rows, width in matrices.values())
    assert predicted_bytes(matrices, "F16") == 2 * numbers
    assert predicted_bytes(matrices, "Q8_0") == numbers * 34 // 32
    assert predicted_bytes(matrices, "Q4_0") == numbers * 18 // 32


def test_a_small_training_does_not_decide_every_rounding() -> None:
    """Weights on a coarser file's grid lie between two Q4_0 values; moving them by 1 % of a step must not move them by
    half a step, all in training's direction. Rounding without a searched scale does that."""
    random = np.random.default_rng(0)
    q5, q4 = GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q4_0
    grid = dequantize(quantize((0.02 * random.standard_normal((64, 896))).astype(np.float32), q5), q5)
    direction = np.sign(random.standard_normal(grid.shape)).astype(np.float32)
    trained = grid + 1e-4 * direction
    plain = dequantize(quantize(trained, q4), q4) - trained
    searched = restored(trained, "Q4_0") - trained
    assert (plain * direction).mean() > 1e-3  # the fault is real: ten times the training's own step
    assert abs((searched * direction).mean()) < 1e-4
    assert np.square(searched).mean() < np.square(plain).mean()
