"""Stability: several sampled answers to one question, how much alike they are and how they end.

In:  groups of replies, one group a question.
Out: rows stability.bleu4_variance, stability.bleu4, stability.similarity, stability.repetition, stability.ended.
Does not know: how the replies were sampled, which model wrote them, whether they are right.

Read the rows together. The variance is 0 for a model that always says the same and 0 for one that never says the same
twice: the mean BLEU-4 beside it tells which. An empty model is perfectly stable: answers.empty tells.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations

import numpy as np

from potstill.evaluate.replies import Written
from potstill.evaluate.scorecard import Floats, Scorecard, bootstrap, mean_of, proportion, ratio
from potstill.models.embedder import OFFLINE, Embed, meanings, open_embedder

ORDERS = 4
"""Longest n-gram of BLEU-4; also the length of the character n-grams that count as repeated."""


@dataclass(frozen=True)
class StabilityQuestion:
    """A question that is asked again and again; it says itself that one to three sentences are enough."""

    id: str
    question: str


def stability_questions() -> list[StabilityQuestion]:
    """The 20 questions that ship with potstill; the first eight are a mix of all kinds."""
    text = files("potstill.evaluate").joinpath("stability.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [StabilityQuestion(row["id"], row["question"]) for row in rows]


def add_stability(
    card: Scorecard,
    model: str,
    groups: Sequence[Sequence[Written]],
    resamples: int,
    seed: int,
    embed: Embed | None = None,
) -> None:
    """All rows of one model; a row's n is the number of questions, and intervals are over questions.

    Args:
        groups: all answers to one question, at least two of them, in any order.
        embed: sentence embeddings; the offline encoder's where none are given.

    Raises: ValueError where there is no group, or one with fewer than two answers.
    """
    if not groups or min(map(len, groups)) < 2:
        raise ValueError("stability needs questions, and at least two answers to each")
    rows = rows_of(groups, embed or open_embedder(OFFLINE).embed)
    ended = rows.pop("stability.ended")
    for metric, samples in rows.items():
        unit = "share" if metric == "stability.repetition" else "score"
        card.add(metric, model, bootstrap(samples, ratio, unit, resamples, seed))
    card.add("stability.ended", model, proportion(sum(part / of for part, of in ended), len(ended)))


def rows_of(groups: Sequence[Sequence[Written]], embed: Embed) -> dict[str, list[list[float]]]:
    """Metric → [part, of] question by question; their sums make the metric."""
    texts = [[reply.text for reply in group] for group in groups]
    pairs = [pairwise_bleu(group) for group in texts]
    return {
        "stability.bleu4_variance": mean_of([float(scores.var()) for scores in pairs]),
        "stability.bleu4": mean_of([float(scores.mean()) for scores in pairs]),
        "stability.similarity": mean_of(similarities(texts, embed)),
        "stability.repetition": [[sum(map(repetition, group)), float(len(group))] for group in texts],
        "stability.ended": [[float(sum(reply.ended for reply in group)), float(len(group))] for group in groups],
    }


def pairwise_bleu(texts: Sequence[str]) -> Floats:
    """Sentence BLEU-4 of every ordered pair of answers: each as the hypothesis, every other as its reference.

    Ordered, because BLEU isn't symmetric: the brevity penalty punishes the shorter of two only as the hypothesis.
    What sacrebleu's `BLEU(tokenize="zh", effective_order=True).sentence_score` gives, from n-grams counted once a
    text. Its smoothing is "exp", sacrebleu's default and NIST's: orders without a match count as 1/2, 1/4, … of one
    match, so that a short Chinese answer without a common 4-gram doesn't score 0, while texts with no token in
    common still do. Two answers of the same tokens score exactly 1, also where there are none: both are empty.

    Args:
        texts: [n] answers to one question.

    Returns: [n · (n - 1)], each 0 to 1.
    Source: Papineni et al. 2002; smoothing: Chen and Cherry 2014, method 3; pairs: Zhu et al. 2018 (Self-BLEU).
    """
    counted = {text: _count(text) for text in set(texts)}
    scores = []
    for first, second in combinations([counted[text] for text in texts], 2):
        scores += _bleu_both_ways(first, second)
    return np.array(scores)


def similarities(groups: Sequence[Sequence[str]], embed: Embed) -> list[float]:
    """Mean cosine between the embeddings of every two answers, question by question; -1 to 1.

    A text without a visible character has no meaning to embed: it is as unlike as can be to every other (0) and the
    same as another such text (1).

    Args:
        groups: answers, two or more a question.
        embed: called once with all distinct texts in sorted order, so that the order of answers changes nothing.
    """
    texts = [text for group in groups for text in group]
    vectors = meanings(texts, embed)
    # one dimension more, which only empty texts use
    rows = np.hstack([vectors, np.array([[0.0 if text.strip() else 1.0] for text in texts])])
    ends = np.cumsum([len(group) for group in groups])[:-1]
    return [_mean_cosine(part) for part in np.split(rows, ends)]


def repetition(text: str) -> float:
    """Share of a text's character 4-grams that occurred in it before; 0 to below 1, and 0 where it has none.

    Whitespace doesn't count: indentation is not repetition.
    Source: seq-rep-n of Welleck et al. 2020, arXiv:1908.04319, on characters, so that no tokenizer decides.
    """
    return repeated_share("".join(text.split()))


def repeated_share(units: Sequence[str]) -> float:
    """Share of the 4-grams of a sequence (characters, words) that occurred in it before, as `repetition` has it."""
    total = len(units) - ORDERS + 1
    if total < 1:
        return 0.0
    return 1 - len({tuple(units[start : start + ORDERS]) for start in range(total)}) / total


@dataclass(frozen=True)
class _Counted:
    grams: Counter[tuple[str, ...]]
    length: int

    @property
    def totals(self) -> list[int]:
        return [max(0, self.length - order) for order in range(ORDERS)]


def _count(text: str) -> _Counted:
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    grams, length = extract_all_word_ngrams(_tokenizer()(text.rstrip()), 1, ORDERS)
    return _Counted(grams, length)


@cache
def _tokenizer() -> Callable[[str], str]:
    from sacrebleu.metrics.bleu import BLEU

    tokenizer: Callable[[str], str] = BLEU(tokenize="zh").tokenizer
    return tokenizer


def _bleu_both_ways(first: _Counted, second: _Counted) -> list[float]:
    if first.grams == second.grams:
        return [1.0, 1.0]
    matches = [0] * ORDERS
    for gram in first.grams.keys() & second.grams.keys():
        matches[len(gram) - 1] += min(first.grams[gram], second.grams[gram])
    return [_bleu(matches, first, second), _bleu(matches, second, first)]


def _bleu(matches: list[int], hypothesis: _Counted, reference: _Counted) -> float:
    from sacrebleu.metrics.bleu import BLEU

    score = BLEU.compute_bleu(
        list(matches),
        hypothesis.totals,
        hypothesis.length,
        reference.length,
        smooth_method="exp",
        effective_order=True,
        max_ngram_order=ORDERS,
    ).score
    return min(1.0, float(score) / 100)


def _mean_cosine(rows: Floats) -> float:
    count = len(rows)
    whole = float(np.square(rows.sum(axis=0)).sum()) - float(np.square(rows).sum())
    return whole / (count * (count - 1))
