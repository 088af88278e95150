"""Two tokenisations of the same text, aligned where tokens of both begin at the same byte.

In:  the pieces that two token sequences spell.
Out: the tokens of both that begin together; groups of tokens that cover the same bytes.
Does not know: tokenizers, ids, models.

At such a place both sides predict the next token from the same bytes. Between two of them lies a group: tokens of one
that together spell what tokens of the other spell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from potstill.vocab.pieces import Piece


@dataclass(frozen=True)
class Alignment:
    """Tokens that begin at the same byte: first[i] of one sequence with second[i] of the other.

    Args:
        first, second: [M] int64, ascending token numbers.
        lengths: tokens in both.
        whole: whether both spell the same to the end.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    lengths: tuple[int, int]
    whole: bool

    def groups(self) -> list[tuple[slice, slice]]:
        """Stretches of both that spell the same bytes; what follows the last common byte is in none."""
        ends = [*zip(self.first.tolist(), self.second.tolist(), strict=True), *([self.lengths] if self.whole else [])]
        return [(slice(begin[0], end[0]), slice(begin[1], end[1])) for begin, end in pairwise(ends)]


def align(first: Sequence[Piece], second: Sequence[Piece]) -> Alignment:
    """Align two spellings as far as they agree.

    Where one of them differs (a normaliser changed the text) or ends (it was cut), nothing behind that byte is aligned.
    A special token is one unit, found again only under its own name. Of several tokens at one byte (an empty piece
    spells nothing), the last counts: it is the one that spells what comes.
    """
    spelled = [[_spelled(piece) for piece in side] for side in (first, second)]
    whole = [b"".join(side) for side in spelled]
    differing = (place for place, (ours, theirs) in enumerate(zip(*whole, strict=False)) if ours != theirs)
    common = next(differing, min(map(len, whole)))
    starts = [dict(zip(accumulate(map(len, side), initial=0), range(len(side)), strict=False)) for side in spelled]
    shared = sorted(start for start in starts[0].keys() & starts[1].keys() if start <= common)
    return Alignment(
        np.array([starts[0][start] for start in shared], dtype=np.int64),
        np.array([starts[1][start] for start in shared], dtype=np.int64),
        (len(first), len(second)),
        whole[0] == whole[1],
    )


def _spelled(piece: Piece) -> bytes:
    """A unit between two bytes that UTF-8 never has."""
    return piece if isinstance(piece, bytes) else b"\xff" + piece.encode() + b"\xff"
