"""Rounded columns make up for each other: nearer in what the matrix computes, exact where nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.gguf import write_gguf
from potstill.models.gguf_reader import read_table
from potstill.models.quantise import quantise_rows
from potstill.models.rounding import round_rows
from potstill.problem import Problem
from potstill.progress import Silent

ROWS = np.random.default_rng(0).standard_normal((48, 512)).astype(np.float32)


def moments_of(width: int, directions: int) -> Tensor:
    """Of inputs that go together: a few directions, and a little of everything."""
    random = np.random.default_rng(1)
    mixed = random.standard_normal((width, directions)) @ random.standard_normal((directions, 4 * width))
    inputs = torch.from_numpy(mixed + 0.3 * random.standard_normal(mixed.shape)).float()
    return inputs @ inputs.T / inputs.shape[1]


def numbers(packed: NDArray[np.uint8], type_name: str) -> NDArray[np.float32]:
    return dequantize(packed, GGMLQuantizationType[type_name])


def loss(packed: NDArray[np.uint8], type_name: str, moments: Tensor, rows: NDArray[np.float32] = ROWS) -> float:
    """Mean square of what the matrix computes otherwise, summed over its outputs."""
    error = torch.from_numpy(numbers(packed, type_name) - rows)
    return float((error @ moments * error).sum())


@pytest.mark.parametrize("type_name", ["Q4_0", "IQ4_NL", "Q5_1", "Q8_0", "Q4_K"])
def test_what_the_matrix_computes_comes_out_nearer(type_name: str) -> None:
    moments = moments_of(512, 40)
    plain, handed_on = quantise_rows(ROWS, type_name), round_rows(ROWS, type_name, moments)
    assert handed_on.shape == plain.shape and handed_on.dtype == plain.dtype
    assert loss(handed_on, type_name, moments) < 0.7 * loss(plain, type_name, moments)


def test_inputs_that_have_nothing_to_do_with_each_other_hand_nothing_on() -> None:
    found, plain = round_rows(ROWS, "IQ4_NL", torch.eye(512)), quantise_rows(ROWS, "IQ4_NL")
    assert (found == plain).mean() > 0.99  # a tie may fall otherwise: all columns count the same but for float32
    errors = [np.square(dequantize(rows, GGMLQuantizationType.IQ4_NL) - ROWS).sum(axis=1) for rows in (found, plain)]
    assert np.allclose(*errors, rtol=1e-4)  # and costs nothing


def test_columns_that_are_never_used_may_take_any_error() -> None:
    """The others then take none of theirs, and are as near as if they were alone."""
    moments = torch.eye(512)
    moments[256:, 256:] = 0.0
    packed = round_rows(ROWS, "Q4_0", moments)
    assert loss(packed, "Q4_0", moments) == pytest.approx(loss(quantise_rows(ROWS, "Q4_0"), "Q4_0", moments), rel=1e-3)


@pytest.mark.parametrize("type_name", ["Q4_0", "IQ4_NL"])
def test_what_the_type_can_hold_stays_as_it_is(type_name: str) -> None:
    random = np.random.default_rng(2)
    scales = 2.0 ** random.integers(-4, 4, (48, 16, 1)).astype(np.float32)
    levels = np.array([-127, 1, 13, 25, 38, 53, 69, 89, 113] if type_name == "IQ4_NL" else range(-8, 8), np.float32)
    held = levels[random.integers(0, len(levels), (48, 16, 32))]
    held[:, :, 0] = levels[0]  # the end of the scale, from which the C code finds it
    rows = (held * scales).reshape(48, 512)
    made = numbers(round_rows(rows, type_name, moments_of(512, 40)), type_name)
    np.testing.assert_allclose(made, rows, rtol=1e-6)


@pytest.mark.parametrize("rows", [ROWS, ROWS[0]])
def test_types_without_blocks_and_single_rows_are_rounded_plainly(rows: NDArray[np.float32]) -> None:
    kind = "F16" if rows.ndim == 2 else "Q4_0"
    assert np.array_equal(round_rows(rows, kind, moments_of(512, 40)), quantise_rows(rows, kind))


def test_the_rows_given_stay_as_they_were() -> None:
    before = ROWS.copy()
    round_rows(ROWS, "Q4_0", moments_of(512, 40))
    assert np.array_equal(ROWS, before)


def test_inputs_that_are_all_zero_are_no_trouble() -> None:
    assert np.isfinite(numbers(round_rows(ROWS, "Q4_0", torch.zeros(512, 512)), "Q4_0")).all()


def test_a_number_that_is_none_is_refused() -> None:
    rows = ROWS.copy()
    rows[3, 70] = np.nan
    with pytest.raises(Problem, match="not a finite number"):
        round_rows(rows, "Q4_0", moments_of(512, 40))


@pytest.mark.parametrize("type_name", ["Q4_0", "Q5_0", "IQ4_NL", "Q4_K"])
def test_important_columns_are_rounded_better(type_name: str) -> None:
    importance = np.where(np.arange(512) % 8 == 0, 100.0, 1.0).astype(np.float32)
    plain, weighed = (
        np.square(numbers(quantise_rows(ROWS, type_name, given), type_name) - ROWS) for given in (None, importance)
    )
    assert (weighed * importance).mean() < 0.95 * (plain * importance).mean()


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_no_importance_is_the_same_everywhere(type_name: str) -> None:
    assert np.array_equal(quantise_rows(ROWS, type_name), quantise_rows(ROWS, type_name, np.ones(512, np.float32)))


def test_a_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="importance"):
        quantise_rows(ROWS, "Q4_0", np.ones(32, np.float32))


def test_a_file_is_written_so(tiny_checkpoint: Path, tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    contents = []
    for given in (None, {name: moments_of(tiny_model.get_parameter(name).shape[1], 5)}):
        path = tmp_path / "made.gguf"
        write_gguf(tiny_checkpoint, path, "Q4_0", metadata={}, progress=Silent(), moments=given)
        raw = path.read_bytes()
        contents.append({key: raw[one.start : one.start + one.size] for key, one in read_table(path).tensors.items()})
    assert {key for key in contents[0] if contents[0][key] != contents[1][key]} == {"blk.1.ffn_down.weight"}
