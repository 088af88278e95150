"""Which of many prompts stay: each text once, and none that is measured with.

In:  prompts in order, the texts to keep away from, a threshold.
Out: those that stay, in the same order, and why each of the others doesn't.
Does not know: files, the run.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from potstill.progress import Task
from potstill.prompts.prompt import GOLDEN, Prompt, is_made_up

WHOLE = 0.999
"""Who asks for exact duplicates alone (a threshold of 1) does not want what is kept away read in full all the same."""
HELD_OUT = "held-out prompts"


@dataclass(frozen=True)
class Dropped:
    """A prompt that does not stay."""

    source: str
    reason: Literal["exact", "near", "overlap", "limit"]
    """Same text; nearly the same text; too close to what is measured with; more than asked for."""
    like: str
    """Id of the prompt it repeats, or name of the set it overlaps with."""


def sift(
    prompts: Sequence[Prompt], kept_away: Mapping[str, Sequence[str]], threshold: float, task: Task
) -> tuple[list[Prompt], list[Dropped]]:
    """Drop repetitions, and training prompts that overlap with anything held out.

    Args:
        prompts: in the order of preference: of two alike the earlier stays, but golden ones come before all,
            and held-out ones before training ones of the user's.
        kept_away: name of a set → texts that no training prompt may hold (nearly) whole.
        threshold: overlap of character 3-grams, 0 to 1, above which two are alike.
        task: advanced by one a prompt.

    Returns: those that stay, in the given order; the others.
    """
    # Needs numpy, which reading prompts does not.
    from potstill.prompts.overlap import GramRanks, OverlapIndex, containment, jaccard

    away = [(name, text) for name, texts in kept_away.items() for text in texts]
    ranks = GramRanks([prompt.text for prompt in prompts] + [text for _, text in away])
    guard, stayed = OverlapIndex(min(threshold, WHOLE), ranks.uses), OverlapIndex(threshold, ranks.uses)
    exact: dict[str, str] = {}
    for name, text in away:
        guard.add(name, ranks.of(text))
    kept: list[int] = []
    dropped: list[Dropped] = []
    for place in sorted(range(len(prompts)), key=lambda place: _rank(prompts[place])):
        prompt = prompts[place]
        task.advance()
        found = ranks.of(prompt.text)
        if prompt.split == "train" and (held_set := guard.find(found, containment)):
            dropped.append(Dropped(prompt.source, "overlap", held_set))
        elif twin := exact.get(prompt.text):
            dropped.append(Dropped(prompt.source, "exact", twin))
        elif alike := stayed.find(found, jaccard):
            dropped.append(Dropped(prompt.source, "near", alike))
        else:
            kept.append(place)
            exact[prompt.text] = prompt.id
            stayed.add(prompt.id, found)
            if prompt.split == "held-out":
                guard.add(HELD_OUT, found)
    stays, holding = _apart(
        [prompts[place] for place in sorted(kept)], lambda text: guard.find(ranks.of(text), containment)
    )
    return stays, dropped + holding


def _apart(stays: Sequence[Prompt], held_by: Callable[[str], str | None]) -> tuple[list[Prompt], list[Dropped]]:
    """Golden training prompts came before what the user holds out: near ones stayed, but none may hold it whole.

    Args:
        held_by: a text → name of the set of which it holds a text, if any.
    """
    golden = [one for one in stays if one.split == "train" and one.source == GOLDEN]
    holding = {one.id: held_set for one in golden if (held_set := held_by(one.text))}
    dropped = [Dropped(one.source, "overlap", holding[one.id]) for one in golden if one.id in holding]
    return [one for one in stays if one.id not in holding], dropped


def _rank(prompt: Prompt) -> tuple[bool, bool]:
    return (prompt.source != GOLDEN, prompt.split == "train")


def limit_training(prompts: Sequence[Prompt], limit: int | None, seed: int) -> tuple[list[Prompt], list[Dropped]]:
    """Keep at most `limit` training prompts, each category in its share, and all held-out ones.

    What people wrote stays before what the teacher made up: healing reads it first (docs/log.md).
    """
    categories: defaultdict[tuple[bool, str], list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if prompt.split == "train":
            categories[is_made_up(prompt), prompt.category].append(prompt)
    # Each category's members spread evenly over (0, 1): any beginning of that line holds all in their shares.
    line = []
    for (made_up, _), members in categories.items():
        drawn = sorted((_draw(seed, prompt.id), prompt.id) for prompt in members)
        line += [(made_up, (rank + 0.5) / len(drawn), *one) for rank, one in enumerate(drawn)]
    over = {name for *_, name in sorted(line)[limit:]} if limit is not None else set()
    dropped = [Dropped(prompt.source, "limit", "") for prompt in prompts if prompt.id in over]
    return [prompt for prompt in prompts if prompt.id not in over], dropped


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
