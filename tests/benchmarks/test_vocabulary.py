"""A smaller vocabulary alone: what is kept is said as before, and what is left out shows in the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from vocabulary import WHOLE, keep_only, likeliest_missing, table

from potstill.models.examples import Example
from potstill.models.teacher import load_model
from potstill.progress import Silent
from potstill.vocab.map import VocabMap
from tiny import VOCABULARY

KEPT = VocabMap.from_kept(range(0, VOCABULARY, 2))


def test_the_logits_of_the_tokens_that_stay_are_the_same(tiny_checkpoint: Path) -> None:
    ids = torch.arange(0, VOCABULARY, 10)[None]
    with torch.no_grad():
        before = load_model(tiny_checkpoint, torch.bfloat16)(ids).logits[..., ::2]
        assert torch.equal(keep_only(tiny_checkpoint, KEPT)(ids // 2).logits, before)


def test_the_share_of_likeliest_tokens_that_are_missing_is_counted_at_answers(
    tiny_model: PreTrainedModel,
) -> None:
    examples = [
        Example(f"{place}", category, np.arange(place, place + 40), 10)
        for place, category in enumerate(("code", "office", "code"))
    ]
    lost = {"all": [], "code": []}
    for example in examples:
        with torch.no_grad():
            likeliest = tiny_model(torch.from_numpy(2 * example.ids)[None]).logits[0, 9:-1].argmax(dim=-1)
        for name in {"all", example.category} & lost.keys():
            lost[name].append((likeliest % 2 == 1).float())
    with Silent().task("", 1, "") as bar:
        found = likeliest_missing(tiny_model, KEPT, examples, bar)
    assert found == pytest.approx({f"missing_{name}": torch.cat(rows).mean().item() for name, rows in lost.items()})
    assert 0 < found["missing_code"] < 1


def test_a_row_a_vocabulary_and_the_whole_one_has_nothing_to_lose() -> None:
    costs = {"lengthening": 1.027, "programs_lengthening": 1.087, "kept_probability": 0.98}
    part = {"size": 32768, "missing_all": 0.008, "missing_code": 0.014} | costs
    lines = table(
        {WHOLE: {"size": 151665, "runs": 39, "passes": 26}, "32768": part | {"runs": 31, "passes": 12}}, 50
    ).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 151,665 |  |") and lines[2].endswith("| 39/50 | 26/50 |")
    assert lines[3] == "| 32,768 | 2.70% | 8.70% | 98.00% | 0.80% | 1.40% | 31/50 | 12/50 |"
