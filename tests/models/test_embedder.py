"""Embedders: unit vectors from either kind, errors in a user's words."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from potstill.models.embedder import OFFLINE, meanings, open_embedder
from potstill.problem import Problem
from tiny import by_characters


@pytest.fixture
def toy_library(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for sentence-transformers that notes how its models are loaded."""
    loaded: list[dict[str, Any]] = []

    class SentenceTransformer:
        def __init__(self, name: str, **settings: Any) -> None:
            if "missing" in name:
                raise OSError(f"{name} is not a local folder\nand much more")
            loaded.append({"name": name, **settings})

        def encode(self, texts: list[str], normalize_embeddings: bool, show_progress_bar: bool) -> Any:
            assert normalize_embeddings and not show_progress_bar
            counts = by_characters(texts)
            return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    open_embedder.cache_clear()
    yield loaded
    open_embedder.cache_clear()


def test_the_offline_encoder_tells_a_paraphrase_from_another_subject_in_chinese() -> None:
    texts = ["海水是咸的，因为里面有盐。", "海里溶了很多盐，所以水发咸。", "会议改到明天下午四点。"]
    vectors = open_embedder(OFFLINE).embed(texts)
    assert vectors.shape == (3, 512)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-3)
    assert vectors[0] @ vectors[1] > vectors[1] @ vectors[2] + 0.2


def test_any_other_name_is_a_sentence_transformers_model_loaded_once_and_safely(toy_library: list) -> None:
    first, again = open_embedder("some/model"), open_embedder("some/model")
    assert first is again
    assert toy_library == [
        {"name": "some/model", "trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
    ]
    vectors = first.embed(["甲乙", "乙丙"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1])
    assert vectors[0] @ vectors[1] == pytest.approx(0.5)


def test_a_model_that_is_not_there_is_said_in_one_line(toy_library: list) -> None:
    with pytest.raises(Problem, match="missing/model") as caught:
        open_embedder("missing/model")
    assert "much more" not in caught.value.what
    assert OFFLINE in caught.value.remedy


def test_without_the_library_the_remedy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(Problem, match="not installed") as caught:
        open_embedder("another/model")
    assert ".[embedders]" in caught.value.remedy


def test_a_real_sentence_transformers_folder_opens_and_embeds(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel

    from tiny import build_tokenizer

    tokenizer = build_tokenizer()
    BertModel(
        BertConfig(
            vocab_size=608, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64,
        )
    ).save_pretrained(tmp_path / "bert")  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "bert")
    body = Transformer(str(tmp_path / "bert"), max_seq_length=32)
    SentenceTransformer(modules=[body, Pooling(32)]).save(str(tmp_path / "embedder"))
    vectors = open_embedder(str(tmp_path / "embedder")).embed(["今天天气很好", "今天天气很好", "hello"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)
    assert vectors[0] @ vectors[2] < 0.999


def test_meanings_are_unit_vectors_and_an_empty_text_means_nothing() -> None:
    asked: list[list[str]] = []

    def watched(texts: list[str]) -> NDArray[np.floating[Any]]:
        asked.append(texts)
        return by_characters(texts)

    vectors = meanings(["乙乙", "甲", " \n", "乙乙", ""], watched)
    assert asked == [["乙乙", "甲"]]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 0, 1, 0])
    assert (vectors[0] == vectors[3]).all()
    assert meanings(["", " "], watched).shape == (2, 0)
