"""The importance of columns: measured as defined, and obeyed by the quantiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from transformers import PreTrainedModel

from potstill.models.gguf import read_table, write_gguf
from potstill.models.importance import EMBEDDING, FLOOR, HEAD, measure_importance
from potstill.models.quantise import quantise_rows
from potstill.progress import Silent

SEQUENCES = [np.random.default_rng(length).integers(0, 600, length) for length in (9, 5, 17, 3)]


def test_it_is_the_mean_square_of_the_inputs(tiny_model: PreTrainedModel) -> None:
    """Against one sequence at a time, the inputs worked out from what enters the layer's feed-forward part."""
    found = measure_importance(tiny_model, SEQUENCES, batch_tokens=40)
    layer, seen = tiny_model.base_model.layers[1], []
    layer.post_attention_layernorm.register_forward_hook(lambda _, __, output: seen.append(output[0, 1:]))
    with torch.inference_mode():
        for ids in SEQUENCES:
            tiny_model(torch.from_numpy(ids)[None])
        states = torch.cat(seen)
        inputs = layer.mlp.act_fn(layer.mlp.gate_proj(states)) * layer.mlp.up_proj(states)
    expected = inputs.double().square().mean(dim=0)
    expected = (expected / expected.mean()).clamp_min(FLOOR)
    np.testing.assert_allclose(found["model.layers.1.mlp.down_proj.weight"], expected / expected.mean(), rtol=1e-4)


def test_every_matrix_has_one_of_its_own_width(tiny_model: PreTrainedModel) -> None:
    found = measure_importance(tiny_model, SEQUENCES, batch_tokens=64)
    matrices = {name: weight.shape for name, weight in tiny_model.named_parameters() if weight.dim() == 2}
    assert set(found) == set(matrices) | {HEAD} and EMBEDDING in found
    for name, shape in matrices.items():
        assert found[name].shape == shape[1:] and found[name].min() > 0
        assert found[name].mean() == pytest.approx(1.0, rel=1e-5)


def test_padding_and_batches_do_not_matter(tiny_model: PreTrainedModel) -> None:
    alone, together = (measure_importance(tiny_model, SEQUENCES, batch_tokens=size) for size in (1, 1000))
    for name, values in alone.items():
        np.testing.assert_allclose(values, together[name], rtol=1e-4)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q5_0", "IQ4_NL", "Q4_K"])
def test_important_columns_are_rounded_better(type_name: str) -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((64, 512)).astype(np.float32)
    importance = np.where(np.arange(512) % 8 == 0, 100.0, 1.0).astype(np.float32)
    plain, weighed = (
        np.square(dequantize(quantise_rows(rows, type_name, given), GGMLQuantizationType[type_name]) - rows)
        for given in (None, importance)
    )
    assert (weighed * importance).mean() < 0.95 * (plain * importance).mean()


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_no_importance_is_the_same_everywhere(type_name: str) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 96)).astype(np.float32)
    assert np.array_equal(quantise_rows(rows, type_name), quantise_rows(rows, type_name, np.ones(96, np.float32)))


def test_a_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="importance"):
        quantise_rows(np.zeros((2, 64), np.float32), "Q4_0", np.ones(32, np.float32))


def test_a_file_is_written_by_importance(tiny_checkpoint: Path, tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    importance = {name: measure_importance(tiny_model, SEQUENCES, 64)[name]}
    contents = []
    for given in (None, importance):
        path = tmp_path / "made.gguf"
        write_gguf(tiny_checkpoint, path, "Q4_0", metadata={}, progress=Silent(), importance=given)
        raw = path.read_bytes()
        contents.append({key: raw[one.start : one.start + one.size] for key, one in read_table(path).tensors.items()})
    assert {key for key in contents[0] if contents[0][key] != contents[1][key]} == {"blk.1.ffn_down.weight"}
