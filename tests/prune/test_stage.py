"""The stage: from another base, from no weights at all, from the teacher; what it says and leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from listening import Listening
from potstill.models.checkpoint import read_header
from potstill.models.gguf import write_gguf
from potstill.models.llama import LlamaReader
from potstill.models.teacher import load_model
from potstill.pipeline import fingerprints
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.prune import calibration, prune
from potstill.recipe import load_recipe, validate_recipe
from potstill.run import Run
from potstill.vocab.map import VocabMap
from prune.cutting import calibration as batches
from tiny import VOCABULARY, build_phi3_tokenizer, build_tokenizer, save_checkpoint, save_phi3


def prepare(
    place: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast, **sections: object
) -> tuple[Run, Listening, Path]:
    """A run whose earlier stages are done: the tokenizer in `vocab/`, calibration text out of thin air."""
    heard = Listening()
    recipe = validate_recipe({"name": "x", **sections}, "test")
    run = Run(place / "run", recipe, place / "home", heard)
    tokenizer.save_pretrained(run.folder / "vocab")
    (run.folder / "prune.partial").mkdir()

    def drawn(_: Run, base_ids: torch.Tensor | None) -> tuple[list, list, list]:
        ids, _, lengths = batches(VOCABULARY if base_ids is None else len(base_ids))
        return ids, ids if base_ids is None else [base_ids[one] for one in ids], lengths

    monkeypatch.setattr(calibration, "calibration_batches", drawn)
    return run, heard, run.folder / "prune.partial"


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_a_student_of_another_base_speaks_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers, hidden width, heads, their width and neurons are cut; llama.cpp reads the same model."""
    base = save_phi3(tmp_path / "phi3")
    shape = {"layers": 3, "hidden": 128, "ffn": 64}
    run, _, folder = prepare(
        tmp_path, monkeypatch, build_phi3_tokenizer(), prune={"base": str(base), **shape, "parameters": None}
    )
    prune(run, folder)
    told = report_of(folder)
    assert told["base"] == str(base) and told["healed"] and len(told["kept_layers"]) == 3
    assert told["spec"] | {"hidden": 128, "heads": 4, "head": 32, "vocabulary": VOCABULARY} == told["spec"]
    assert 0 < told["cut"] < 1
    student = load_model(folder / "student", torch.float32)
    assert sum(parameter.numel() for parameter in student.parameters()) == told["parameters"]
    assert student.config.eos_token_id == build_phi3_tokenizer().eos_token_id
    write_gguf(folder / "student", tmp_path / "x.gguf", "F16", metadata={}, progress=Silent())
    ids = build_phi3_tokenizer()("请帮我写一封邮件 and a list").input_ids
    with torch.no_grad(), LlamaReader(tmp_path / "x.gguf", context=64, threads=1, exact=True) as reader:
        expected, found = student(torch.tensor([ids])).logits[0], torch.from_numpy(reader.logits(ids))
        assert reader.tokenize("请帮我写一封邮件 and a list") == ids
    assert (found - expected).abs().max() < 0.02 * expected.std()
    assert read_header(folder / "cut")["format"] == "pt"


@pytest.mark.parametrize("weights", [True, False])
def test_random_weights_have_the_shape_and_say_so(
    weights: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_phi3(tmp_path / "phi3", weights=weights)
    wanted = {"base": str(base), "initialise": "random", "layers": 2, "hidden": 128, "ffn": 64}
    students = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        run, heard, folder = prepare(tmp_path / name, monkeypatch, build_phi3_tokenizer(), prune=wanted, seed=seed)
        prune(run, folder)
        students.append(load_model(folder / "student", torch.float32).state_dict())
    assert any("random weights: it starts knowing nothing" in line for line in heard.lines)
    told = report_of(folder)
    assert told["initialised"] == "random weights: it starts knowing nothing" and told["healed"] is False
    assert told["cut"] == 1
    assert told["parameters"] == sum(value.numel() for value in students[0].values())
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(students[0][name], students[1][name]) and not torch.equal(students[0][name], students[2][name])
    assert students[0][name].shape == (128, 64)


def test_no_weights_and_nothing_said_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_phi3(tmp_path / "phi3", weights=False)
    run, _, folder = prepare(tmp_path, monkeypatch, build_phi3_tokenizer(), prune={"base": str(base)})
    with pytest.raises(Problem, match=r"no weights to cut from.*random"):
        prune(run, folder)
    with pytest.raises(Problem, match=r"initialise = .random. needs base"):
        validate_recipe({"name": "x", "prune": {"initialise": "random"}}, "test")


def test_another_base_with_the_teachers_tokens_keeps_the_subset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_checkpoint(tmp_path / "larger", seed=3)
    run, _, folder = prepare(
        tmp_path, monkeypatch, build_tokenizer(), prune={"base": str(base), "layers": None, "parameters": None}
    )
    kept = [*range(0, 596, 2), 597, 598, 599]
    VocabMap.from_kept(kept).save(run.folder / "vocab" / "vocab_map.safetensors")
    prune(run, folder)
    embeddings = load_model(folder / "student", torch.float32).get_input_embeddings().weight
    expected = load_model(base, torch.float32).get_input_embeddings().weight[kept]
    torch.testing.assert_close(embeddings, expected, atol=0.01, rtol=0.01)
    VocabMap.from_kept([1, 999]).save(run.folder / "vocab" / "vocab_map.safetensors")
    with pytest.raises(Problem, match="608 tokens, the vocabulary names number 999"):
        prune(run, folder)


def test_a_base_beside_the_recipe_is_found_and_counts_by_what_it_holds(tmp_path: Path) -> None:
    teacher, base = save_checkpoint(tmp_path / "models" / "teacher"), save_phi3(tmp_path / "models" / "phi3")
    (tmp_path / "recipes").mkdir()
    path = tmp_path / "recipes" / "x.toml"
    path.write_text(f'name = "x"\nteacher.model = "{teacher}"\nprune.base = "../models/phi3"\n')
    recipe = load_recipe(path)
    assert Path(str(recipe.prune.base)).resolve() == base.resolve()
    before = fingerprints(Run(tmp_path / "run", recipe, tmp_path / "home"))["prune"]
    moved = base.rename(tmp_path / "elsewhere")
    path.write_text(f'name = "x"\nteacher.model = "{teacher}"\nprune.base = "{moved}"\n')
    assert fingerprints(Run(tmp_path / "run", load_recipe(path), tmp_path / "home"))["prune"] == before
    save_phi3(moved, seed=5)
    assert fingerprints(Run(tmp_path / "run", load_recipe(path), tmp_path / "home"))["prune"] != before
    path.write_text('name = "x"\nprune.base = "microsoft/Phi-3-mini-4k-instruct"\n')
    assert load_recipe(path).prune.base == "microsoft/Phi-3-mini-4k-instruct"
