"""How large the models are: by what is here, or by a guess that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from potstill.check.sizes import Sizes, size_up
from potstill.models.catalogue import CATALOGUE
from potstill.models.teacher import converted_checkpoint
from potstill.problem import Problem
from potstill.recipe import validate_recipe
from tiny import build_model, build_tokenizer, save_checkpoint, save_phi3


def sizes(home: Path, **sections: object) -> Sizes:
    return size_up(validate_recipe({"name": "x", **sections}, "test"), home)


def test_the_default_teacher_has_the_parameters_of_the_catalogue(tmp_path: Path) -> None:
    found = sizes(tmp_path)
    assert found.known and found.teacher == CATALOGUE[0].parameters == found.body + found.head


def test_a_teacher_in_a_folder_is_counted_exactly(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model")
    found = sizes(tmp_path, teacher={"model": str(checkpoint)}, prune={"layers": 1, "ffn": 32})
    assert found.known and found.teacher == build_model(build_tokenizer()).num_parameters()


def test_a_teacher_that_was_fetched_is_counted_by_name(tmp_path: Path) -> None:
    settings = {"teacher": {"model": "owner/tiny"}, "prune": {"layers": 1, "ffn": 32}}
    guessed = sizes(tmp_path, **settings)
    save_checkpoint(tmp_path / "teachers" / "owner--tiny" / "checkpoint")
    known = sizes(tmp_path, **settings)
    assert (guessed.known, guessed.teacher, guessed.shape) == (False, CATALOGUE[0].parameters, None)
    assert known.known and known.teacher < guessed.teacher and known.student < guessed.student


def test_a_gguf_of_ones_own_is_counted_once_it_is_converted(tmp_path: Path) -> None:
    gguf = tmp_path / "own.gguf"
    gguf.write_bytes(b"any")
    settings = {"teacher": {"model": str(gguf)}, "prune": {"layers": 1, "ffn": 32}}
    assert not sizes(tmp_path, **settings).known
    save_checkpoint(converted_checkpoint(gguf, tmp_path))
    assert sizes(tmp_path, **settings).known


def test_of_a_teacher_of_the_catalogue_the_size_is_known_before_it_is_here(tmp_path: Path) -> None:
    other = CATALOGUE[1]
    found = sizes(tmp_path, teacher={"model": other.name}, prune={"parameters": 60_000_000})
    assert (found.teacher, found.known) == (other.parameters, False) and found.body < other.parameters


def test_a_shape_the_default_teacher_cannot_give_is_refused(tmp_path: Path) -> None:
    for prune, said in (
        ({"layers": 30}, "there are 24"),
        ({"layers": 2, "parameters": 400_000_000}, "out of reach"),
        ({"ffn": 6400}, "there are 4864"),
    ):
        with pytest.raises(Problem, match=said):
            sizes(tmp_path, prune=prune)
        assert sizes(tmp_path, prune=prune, teacher={"model": "owner/larger"}).shape is None


def test_the_default_student_has_the_parameters_it_is_asked_for(tmp_path: Path) -> None:
    assert sizes(tmp_path).student == pytest.approx(150e6, rel=0.02)
    assert sizes(tmp_path, prune={"layers": 2, "ffn": 64, "parameters": 900_000_000}).student < 50e6


def test_the_students_shape_is_told_before_it_is_cut(tmp_path: Path) -> None:
    student = sizes(tmp_path, prune={"hidden": 768, "layers": 12, "parameters": 80_000_000})
    assert student.student == pytest.approx(79.8e6, rel=0.001)
    assert student.shape == "12 × 1376, hidden 768, 12 heads of 64 over 2, vocabulary 32768"


def test_a_base_of_its_own_keeps_all_of_its_tokens(tmp_path: Path) -> None:
    base = save_phi3(tmp_path / "phi3", weights=False)
    shape = {"layers": 3, "hidden": 128, "ffn": 64}
    assert sizes(tmp_path, prune={"base": str(base), **shape}).shape == (
        "3 × 64, hidden 128, 4 heads of 32, vocabulary 608"
    )
    assert sizes(tmp_path, prune={"base": "microsoft/Phi-3-mini-4k-instruct"}).shape is None
    alike = {"teacher": {"model": str(save_checkpoint(tmp_path / "teacher"))}, "vocab": {"size": 512}}
    own = {"base": str(save_checkpoint(tmp_path / "base", seed=3))}
    assert str(sizes(tmp_path, prune=own | {"layers": 1, "ffn": 32}, **alike).shape).endswith("vocabulary 512")
    with pytest.raises(Problem, match=r"prune\.hidden = 320"):
        sizes(tmp_path, prune={"base": str(base), **shape, "hidden": 320})
