"""The mix that is chosen was measured, is the best of what fits, and is what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from potstill.export import export, gguf_path
from potstill.export.choosing import GROUPS, Probe, choose, ladder, predict
from potstill.export.writing import StudentFiles
from potstill.models.examples import Example
from potstill.models.gguf_reader import load_state, read_table
from potstill.models.teacher import load_model
from potstill.problem import Problem
from potstill.run import Run, read_json

Exporting = Callable[..., Run]


@pytest.fixture(scope="module")
def probe(tiny_student: Path, answers: list[Example]) -> Probe:
    return Probe(load_model(tiny_student, torch.float32), answers, {})


def test_nothing_quantised_costs_nothing(probe: Probe) -> None:
    assert probe.divergence({}) == 0.0


def test_fewer_bits_cost_more_and_the_weights_come_back(probe: Probe) -> None:
    losses = [probe.divergence(dict.fromkeys(GROUPS, kind)) for kind in ("F16", "Q8_0", "Q5_0", "Q4_0")]
    assert losses == sorted(losses) and 0 < losses[0] < 1e-4 < losses[-1]
    assert probe.divergence({}) == 0.0


@pytest.mark.parametrize("tokens", [0, 400])
def test_it_is_the_kl_of_the_file(exporting: Exporting, answers: list[Example], tokens: int) -> None:
    """A model with the file's own weights, compared at the same positions."""
    run = exporting(types=("Q4_0-ffn_down-Q8_0",), ship="Q4_0-ffn_down-Q8_0", importance_tokens=tokens)
    export(run, run.folder / "export")
    exact = load_model(run.folder / "distill" / "student", torch.float32)
    found = load_model(run.folder / "distill" / "student", torch.float32)
    state = load_state(gguf_path(run, "Q4_0-ffn_down-Q8_0"))
    found.load_state_dict({name: torch.from_numpy(weight) for name, weight in state.items()}, strict=False)
    total, positions = 0.0, 0
    with torch.inference_mode():
        for one in answers:
            ids = torch.from_numpy(one.ids)[None, :-1]
            here, there = (model(ids).logits[0, one.start - 1 :].log_softmax(-1) for model in (exact, found))
            total += float((here.exp() * (here - there)).sum())
            positions += one.rows
    types = dict.fromkeys(GROUPS, "Q4_0") | {"ffn_down": "Q8_0"}
    probe = Probe(exact, answers, StudentFiles(run, run.folder / "export", "").moments)
    assert probe.divergence(types) == pytest.approx(total / positions, rel=1e-3)


def test_types_that_come_to_the_same_are_tried_once(probe: Probe) -> None:
    """No row of the tiny model divides by 256: its Q6_K is Q8_0."""
    assert ladder(probe, "attention") == ["Q4_0", "IQ4_NL", "Q5_0", "Q8_0", "F16"]
    alone = {group: dict.fromkeys(ladder(probe, group), 0.0) for group in GROUPS}
    assert len({one.name for one in predict(probe, alone)}) == 5**4


def test_the_closest_file_of_a_size_is_written(exporting: Exporting, probe: Probe) -> None:
    limit = probe.megabytes("Q4_0") * 1.2
    run = exporting(types=("F16",), ship="chosen", target_mb=limit, choice_tokens=200)
    export(run, run.folder / "export")
    report = read_json(run.folder / "export" / "report.json")
    chosen, choice = report["files"][-1], report["choice"]
    assert gguf_path(run, "chosen").name == f"tiny-{chosen['mix']}.gguf"
    assert gguf_path(run, "chosen").stat().st_size <= limit * 1e6 + 8192
    fitting = [one for one in choice["tried"] if one["megabytes"] <= limit]
    assert all(one["measured"] for one in choice["tried"]) and {"Q4_0", "Q8_0"} <= {o["name"] for o in choice["tried"]}
    assert chosen["mix"] == choice["name"] == min(fitting, key=lambda one: one["kl"])["name"] != "Q4_0"


def test_the_smallest_file_that_is_close_enough(exporting: Exporting, probe: Probe) -> None:
    allowed = probe.divergence(dict.fromkeys(GROUPS, "Q5_0"))
    run = exporting()
    choice = choose(run, {}, max_kl=allowed)
    rows = {one.name: one for one in choice.tried}
    assert rows[choice.name].kl <= allowed
    assert rows[choice.name].megabytes <= rows["Q5_0"].megabytes
    assert all(one.megabytes >= rows[choice.name].megabytes for one in choice.tried if one.kl <= allowed)


def test_what_cannot_be_had_is_said(exporting: Exporting) -> None:
    run = exporting()
    with pytest.raises(Problem, match=r"No mix fits into 0.01 MB"):
        choose(run, {}, target_mb=0.01)
    with pytest.raises(Problem, match=r"No type is within 1e-12 nats"):
        choose(run, {}, max_kl=1e-12)


def test_a_mix_of_ones_own_and_importance(exporting: Exporting) -> None:
    mixes = [{"name": "mine", "base": "Q4_0", "tensors": {"token_embd": "Q8_0", "blk.0.attn_v": "F16"}}]
    run = exporting(types=("mine", "Q4_0"), ship="mine", mixes=mixes, importance_tokens=60)
    export(run, run.folder / "export")
    types = {name: tensor.type_name for name, tensor in read_table(gguf_path(run, "mine")).tensors.items()}
    assert types["token_embd.weight"] == "Q8_0" and types["blk.0.attn_v.weight"] == "F16"
    assert types["blk.1.attn_v.weight"] == "Q4_0"
    plain = exporting_again(run, importance_tokens=0)
    assert gguf_path(run, "Q4_0").read_bytes() != plain


def exporting_again(run: Run, **settings: int) -> bytes:
    """The bytes of Q4_0 under other settings."""
    other = run.recipe.model_copy(update={"export": run.recipe.export.model_copy(update=settings)})
    folder = run.folder / "again"
    folder.mkdir()
    export(Run(run.folder, other, home=run.home), folder)
    return (folder / "tiny-Q4_0.gguf").read_bytes()
