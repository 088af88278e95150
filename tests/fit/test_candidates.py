"""Shapes by arithmetic: what they weigh, and which are tried."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen2Config

from potstill.fit.candidates import Candidate, Material, Scales, span
from potstill.fit.measuring import RandomFiles
from potstill.models.architecture import read_config
from potstill.problem import Problem
from potstill.prune.shape import ROW
from potstill.recipe import PruneSection
from potstill.vocab.map import VocabMap

LARGE = Qwen2Config(
    vocab_size=151936, hidden_size=896, num_hidden_layers=24, intermediate_size=4864, num_attention_heads=14,
    num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=151645,
)  # fmt: skip
KEPT = VocabMap(np.arange(32768))


def material(kind: str = "Q4_0", **section: object) -> Material:
    return Material(LARGE, KEPT, PruneSection.model_validate(section), kind)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K_M"])
def test_no_candidate_is_too_large_and_one_step_more_would_be(kind: str) -> None:
    found = span(material(kind), 100, 4)
    assert all(one.file_mb <= 100 for one in found) and len({one.spec for one in found}) == len(found)
    for one in found:
        assert one.spec.ffn % ROW == 0 and one.spec.layers <= 24
    largest = found[0]
    scales = Scales(material(kind), largest.spec.hidden)
    more = [scales.weigh(largest.spec.layers, ffn) for ffn in range(largest.spec.ffn + ROW, 4865, 7 * ROW)]
    assert min(more) > 100e6


def test_candidates_span_sizes_depths_and_widths() -> None:
    found = span(material(), 100, 12)
    assert 8 <= len(found) <= 12
    assert found[0].file_mb > 95 and found[-1].file_mb < 45
    assert {one.spec.hidden for one in found} == {896, 768}
    assert len({one.spec.layers for one in found}) >= 5
    assert [one.file_mb for one in found] == sorted((one.file_mb for one in found), reverse=True)
    assert len(span(material(), 100, 3)) == 3


def test_without_a_size_the_whole_model_is_the_largest() -> None:
    spec = span(material(hidden=768), None, 4)[0].spec
    assert (spec.layers, spec.ffn, spec.hidden) == (24, 4864, 768)


def test_a_size_below_everything_says_by_how_much() -> None:
    with pytest.raises(
        Problem,
        match=r"--size 10 MB excludes every shape: .* 1 × 32, takes 1\d\.\d MB, \d+% more, .* for 32,768 tokens",
    ):
        span(material(), 10, 12)
    least = Scales(material(), 768).weigh(1, ROW)
    (one,) = span(material(), math.ceil(least / 1e4) / 100, 1)
    assert (one.spec.layers, one.spec.ffn, one.spec.hidden) == (1, ROW, 768)


def test_a_type_that_nobody_knows_is_refused() -> None:
    with pytest.raises(Problem, match="Q3_X"):
        span(material("Q3_X"), 100, 4)


def test_the_file_weighs_what_was_reckoned(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tiny = Material(read_config(tiny_checkpoint), None, PruneSection(), "Q8_0")
    candidate = Scales(tiny, None).largest(3, 1e9)
    assert isinstance(candidate, Candidate) and candidate.spec.ffn == 96
    with RandomFiles(tmp_path / "files", tiny, tiny_checkpoint).kept() as files:
        path = files.path(candidate)
        size, written = path.stat().st_size, path.stat().st_mtime_ns
        assert files.path(candidate).stat().st_mtime_ns == written
        # A tiny file is mostly header: names, settings and the chat template are not in the reckoning.
        assert candidate.file_mb * 1e6 <= size + 20_000 and size < candidate.file_mb * 1e6 + 20_000
    assert not (tmp_path / "files").exists()
