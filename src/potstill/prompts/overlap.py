"""Which texts are nearly the same, exactly and fast.

In:  texts, a threshold on the overlap of their character 3-grams.
Out: the name of the text that overlaps most, or None.
Does not know: prompts, splits, files.

Letter case and whitespace don't count. Exact, not sketched, after two works on joining sets by similarity:

- Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search": two sets overlap by more than a share t only
  if they have one of the rarest n - ⌈t·n⌉ + 1 grams of either in common.
- Xiao, Wang, Lin and Yu 2008, "Efficient similarity joins for near duplicate detection": where more of the rarest are
  looked at than that, so many of them must be in common that the others could make up for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Ranks = NDArray[np.int32]
Share = Callable[[Any, int, Any], Any]

LOOKED_AT = 0.6
"""Share of a text's grams, the rarest, that it is found by. Fewer: more is compared in vain; more: longer lists."""
BLOCK = 2000
"""Texts whose grams are counted at a time."""


def jaccard(common: Any, asked: int, added: Any) -> Any:
    """Shared grams ÷ grams of either."""
    return common / (asked + added - common)


def containment(common: Any, asked: int, added: Any) -> Any:
    """Shared grams ÷ grams of the added text: 1 where the asked one holds it whole. Never below `jaccard`."""
    return common / added


def grams(text: str) -> frozenset[int]:
    """Character 3-grams without case and whitespace, as numbers; a shorter text is one gram."""
    return frozenset(_codes(text).tolist())


def _codes(text: str) -> Numbers:
    """Three code points of 21 bits in each number; a shorter text is filled up with bits that no character has."""
    squeezed = "".join(text.casefold().split())
    points = np.frombuffer(squeezed.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
    if len(points) < 3:
        points = np.pad(points, (0, 3 - len(points)), constant_values=2**21 - 1)
    return points[:-2] << 42 | points[1:-1] << 21 | points[2:]


class GramRanks:
    """The grams of a set of texts as numbers, the rarest first."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Count the grams of all texts that will be asked for."""
        self._codes, self.uses = np.empty(0, np.int64), np.empty(0, np.int64)
        for codes in _blocks(texts):
            everything = np.concatenate([self._codes, codes])
            counts = np.concatenate([self.uses, np.ones(len(codes), np.int64)])
            self._codes, places = np.unique(everything, return_inverse=True)
            self.uses = np.bincount(places, weights=counts).astype(np.int64)
        rarest_first = np.argsort(self.uses, kind="stable")
        self._rank = np.empty(len(rarest_first), np.int32)
        self._rank[rarest_first] = np.arange(len(rarest_first), dtype=np.int32)
        self.uses = self.uses[rarest_first]
        """Texts that hold each gram, by rank."""

    def of(self, text: str) -> Ranks:
        """Ranks of the grams of one of the texts, ascending."""
        return np.sort(self._rank[np.searchsorted(self._codes, np.unique(_codes(text)))])


def _blocks(texts: Iterable[str]) -> Iterator[Numbers]:
    """The grams of some texts at a time, each as often as it is in another text."""
    ahead = iter(texts)
    while block := [np.unique(_codes(text)) for text in islice(ahead, BLOCK)]:
        yield np.concatenate(block)


class OverlapIndex:
    """Texts (as ranks) under their names, findable by what they share with another."""

    def __init__(self, threshold: float, uses: Numbers) -> None:
        """Start empty; overlaps above `threshold`, 0 to 1, will be found.

        Args:
            uses: `GramRanks.uses` of all texts that may be added, so that there is room for each in every list.
        """
        self._threshold = threshold
        self._added: list[tuple[str, Ranks]] = []
        self._sizes = np.empty(0, np.int32)
        """Grams of each added text."""
        self._hidden = np.empty(0, np.int32)
        """Those it isn't found by."""
        # One list of places for each gram, all in one array that the system gives memory to as it is filled.
        self._begins = np.cumsum(uses) - uses
        self._filled = np.zeros(len(uses), np.int64)
        self._places = np.empty(int(uses.sum()), np.int32)

    def add(self, name: str, ranks: Ranks) -> None:
        """Make a text findable."""
        place, size = len(self._added), len(ranks)
        found_by = max(size - math.ceil(self._threshold * size) + 1, math.ceil(LOOKED_AT * size))
        telling = ranks[:found_by]
        self._places[self._begins[telling] + self._filled[telling]] = place
        self._filled[telling] += 1
        self._sizes, self._hidden = _with_room(self._sizes, place), _with_room(self._hidden, place)
        self._sizes[place], self._hidden[place] = size, size - len(telling)
        self._added.append((name, ranks))

    def find(self, ranks: Ranks, share: Share) -> str | None:
        """Name of the added text whose `share` is largest (the first of equals) and above the threshold."""
        listed = self._listed(ranks)
        if not len(listed):
            return None
        places, common = np.unique(listed, return_counts=True)
        sizes = self._sizes[places]
        at_most = np.minimum(common + self._hidden[places], np.minimum(sizes, len(ranks)))
        best, best_share = None, self._threshold
        for place in places[share(at_most, len(ranks), sizes) > self._threshold]:
            name, added = self._added[place]
            shared = len(np.intersect1d(ranks, added, assume_unique=True))
            found = share(shared, len(ranks), len(added))
            if found > best_share:
                best, best_share = name, found
        return best

    def _listed(self, ranks: Ranks) -> Ranks:
        """The lists of these grams, end to end."""
        lengths = self._filled[ranks]
        ends = lengths.cumsum()
        steps = (self._begins[ranks] - ends + lengths).repeat(lengths)
        places: Ranks = self._places[steps + np.arange(len(steps))]
        return places


def _with_room(array: Ranks, place: int) -> Ranks:
    """The same array, twice as long where it has no such place."""
    return array if place < len(array) else np.resize(array, 2 * place + 16)
