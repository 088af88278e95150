"""Which texts are nearly the same, exactly and fast.

In:  texts, a threshold on the overlap of their character 3-grams.
Out: the name of the text that overlaps most, or None.
Does not know: prompts, splits, files.

Letter case and whitespace don't count. Exact, not sketched: two sets overlap by more than a share t only if
they have one of the rarest n - ⌈t·n⌉ + 1 grams of the first in common, so only those are looked up (prefix
filtering: Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search").
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

Share = Callable[[int, int, int], float]


def jaccard(common: int, asked: int, added: int) -> float:
    """Shared grams ÷ grams of either."""
    return common / (asked + added - common)


def containment(common: int, asked: int, added: int) -> float:
    """Shared grams ÷ grams of the added text: 1 where the asked one holds it whole. Never below `jaccard`."""
    return common / added


def grams(text: str) -> frozenset[str]:
    """Character 3-grams without case and whitespace; a shorter text is one gram."""
    squeezed = "".join(text.casefold().split())
    return frozenset(squeezed[start : start + 3] for start in range(max(1, len(squeezed) - 2)))


class GramRanks:
    """The grams of a set of texts as numbers, the rarest first."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Count the grams of all texts that will be asked for."""
        uses = Counter(gram for text in texts for gram in grams(text))
        rarest_first = sorted(uses, key=lambda gram: (uses[gram], gram))
        self._rank = {gram: rank for rank, gram in enumerate(rarest_first)}

    def of(self, text: str) -> array[int]:
        """Ranks of the grams of one of the texts, ascending. Raises: KeyError for any other text's grams."""
        return array("i", sorted(self._rank[gram] for gram in grams(text)))


class OverlapIndex:
    """Texts (as ranks) under their names, findable by what they share with another."""

    def __init__(self, threshold: float) -> None:
        """Start empty; overlaps above `threshold`, 0 to 1, will be found."""
        self._threshold = threshold
        self._added: list[tuple[str, array[int]]] = []
        self._places: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, name: str, ranks: array[int]) -> None:
        """Make a text findable."""
        telling = len(ranks) - math.ceil(self._threshold * len(ranks)) + 1
        for rank in ranks[:telling]:
            self._places[rank].append(len(self._added))
        self._added.append((name, ranks))

    def find(self, ranks: array[int], share: Share) -> str | None:
        """Name of the added text whose `share` is largest (the first of equals) and above the threshold."""
        asked = set(ranks)
        best, best_share = None, self._threshold
        for place in sorted({place for rank in asked for place in self._places.get(rank, ())}):
            name, added = self._added[place]
            found = share(len(asked.intersection(added)), len(asked), len(added))
            if found > best_share:
                best, best_share = name, found
        return best
