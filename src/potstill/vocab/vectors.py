"""One space of word vectors for the tokens of two tokenizers.

In:  the same texts, cut into pieces by both.
Out: for every token seen, a vector; those of tokens with the same letters or the same company lie together.
Does not know: ids, models, which tokens need a neighbour.

Both cuts of a text, and mixtures of them that change sides from group to group, are sentences of one corpus: a token
of one vocabulary then keeps the company of the tokens of the other that stand for the same bytes. In half of the
mixtures letters are small, so that WeChat and wechat keep the same company; 微信 joins them where people write it in
their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from potstill.problem import Problem, install
from potstill.vocab.alignment import align
from potstill.vocab.binding import Floats
from potstill.vocab.pieces import Piece

MIXTURES = 4
"""Sentences a text gives beside its two plain cuts."""
SUBWORDS = (1, 4)
"""Shortest and longest run of characters with a vector of its own: one Chinese character says much."""
BUCKETS = 200_000
WINDOW = 5


def word(piece: Piece) -> str | None:
    """What a piece is called in the corpus; None for torn characters, blanks and special tokens, which mean nothing."""
    if isinstance(piece, str):
        return None
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return None
    return text.replace(" ", "▁") if text.strip() else None


def sentences(cuts: Iterable[tuple[Sequence[Piece], Sequence[Piece]]], seed: int) -> Iterator[list[str]]:
    """The corpus: each text in both cuts, then in mixtures of them. The same for the same seed."""
    random = np.random.default_rng(seed)
    for first, second in cuts:
        yield _words(first)
        yield _words(second)
        groups = align(first, second).groups()
        for mixture in range(MIXTURES):
            sides = random.integers(0, 2, size=len(groups))
            mixed = [
                piece
                for (ours, theirs), side in zip(groups, sides, strict=True)
                for piece in (second[theirs] if side else first[ours])
            ]
            words = _words(mixed)
            yield [one.lower() for one in words] if mixture % 2 else words


def train_vectors(corpus: Sequence[Sequence[str]], dimensions: int, epochs: int, seed: int) -> dict[str, Floats]:
    """Word → vector [d] of length 1, for every word of the corpus. The same for the same seed.

    Raises: Problem where gensim is not installed.
    Source: subword vectors, arXiv:1607.04606.
    """
    try:
        from gensim.models import FastText
    except ImportError:
        raise Problem(
            "neighbours among tokens need word vectors, and gensim is not installed",
            f"{install('foreign')}; or set vocab.binding.neighbours = false.",
        ) from None
    if not any(corpus):
        return {}
    model: Any = FastText(
        sentences=corpus,
        vector_size=dimensions,
        epochs=epochs,
        sg=1,
        window=WINDOW,
        min_count=1,
        min_n=SUBWORDS[0],
        max_n=SUBWORDS[1],
        bucket=BUCKETS,
        seed=seed + 1,  # gensim takes 0 for "none given"
        workers=1,  # with more, threads decide the order of updates
    )
    return {one: _unit(model.wv[one]) for one in model.wv.index_to_key}


def _words(pieces: Sequence[Piece]) -> list[str]:
    return [called for piece in pieces if (called := word(piece)) is not None]


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)
