"""A merge-closed subset of a byte-level BPE vocabulary.

In:  the teacher's `tokenizer.json` as parsed JSON, and a score for each of its tokens.
Out: the kept token ids, and a `tokenizer.json` over them alone.
Does not know: models, prompts, files.

Closed under merges: whenever a token is kept, so is every token on the path of merges that makes it. Any text stays
encodable that the teacher can encode (all its bytes are kept), there is no unknown token, and every student token is
a teacher token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from potstill.problem import Problem

TokenizerJson = dict[str, Any]

MOST_BYTES = 224
"""Of 256, from which on a BPE vocabulary is taken for a byte-level one."""


def choose_tokens(tokenizer: TokenizerJson, scores: Mapping[int, float], size: int) -> list[int]:
    """Teacher ids to keep, ascending.

    Bytes and special tokens come first, then scored tokens by falling score (each with its merge path), then the rest
    by id, which in a BPE vocabulary is the order in which merges were learned.

    Args:
        tokenizer: parsed tokenizer.json with a byte-level BPE model.
        scores: teacher id → how much it is wanted, such as its uses in the corpus.
        size: tokens to keep, everything counted.

    Raises: Problem where `size` cannot hold the bytes and the special tokens, or is more than there is.
    """
    model = _bpe(tokenizer)
    vocabulary: dict[str, int] = model["vocab"]
    parents = {vocabulary["".join(pair)]: [vocabulary[part] for part in pair] for pair in _merges(model)}
    kept = {vocabulary[byte] for byte in ByteLevel.alphabet() if byte in vocabulary}
    kept |= {token["id"] for token in tokenizer["added_tokens"]}
    if len(kept) > size:
        raise Problem(f"vocab.size = {size} cannot hold {len(kept)} byte and special tokens", "Raise vocab.size.")
    available = len(kept | parents.keys())
    if size > available:
        raise Problem(
            f"vocab.size = {size}, but the teacher has {available} tokens", f"Lower it to {available} or less."
        )
    scored = sorted((token for token in scores if token in parents), key=lambda token: (-scores[token], token))
    for token in chain(scored, sorted(parents)):
        path = _path(token, parents, kept)
        if len(kept) + len(path) <= size:
            kept |= path
        if len(kept) == size:
            break
    return sorted(kept)


def subset_tokenizer(tokenizer: TokenizerJson, kept: Iterable[int]) -> TokenizerJson:
    """A tokenizer.json whose token i is the i-th kept teacher token.

    The normaliser is dropped: it would make the round trip of text that is not in its normal form inexact, and
    llama.cpp has none.
    """
    student = {teacher: index for index, teacher in enumerate(kept)}
    model = _bpe(tokenizer)
    vocabulary = {token: student[index] for token, index in model["vocab"].items() if index in student}
    merges = [
        pair
        for pair in _merges(model)
        if "".join(pair) in vocabulary and pair[0] in vocabulary and pair[1] in vocabulary
    ]
    result = copy.copy(tokenizer)
    result["normalizer"] = None
    result["model"] = {**model, "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])), "merges": merges}
    result["added_tokens"] = [
        {**token, "id": student[token["id"]]} for token in tokenizer["added_tokens"] if token["id"] in student
    ]
    result["post_processor"] = _renumbered(tokenizer.get("post_processor"), student)
    return result


def _renumbered(processor: Any, student: Mapping[int, int]) -> Any:
    """A post-processor that puts special tokens around a text (Llama 3's does) names them by their numbers too."""
    if not isinstance(processor, dict):
        return processor
    renumbered = dict(processor)
    if "processors" in processor:
        renumbered["processors"] = [_renumbered(one, student) for one in processor["processors"]]
    if processor.get("type") == "TemplateProcessing":
        renumbered["special_tokens"] = {
            name: {**token, "ids": [student[number] for number in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
    return renumbered


def _bpe(tokenizer: TokenizerJson) -> dict[str, Any]:
    model: dict[str, Any] = tokenizer["model"]
    # Some lack bytes that their training text had none of (SmolLM2: 21); what the teacher cannot say nobody has to.
    known = sum(byte in model.get("vocab", {}) for byte in ByteLevel.alphabet())
    if model.get("type") != "BPE" or known < MOST_BYTES:
        raise Problem(
            "the teacher's tokenizer is not a byte-level BPE", "Choose a teacher of the Qwen or Llama 3 family."
        )
    return model


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges as pairs; older files write them as one string with a space."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in pairs]


def _path(token: int, parents: Mapping[int, list[int]], kept: set[int]) -> set[int]:
    """The token and every token on its merge path that is not kept yet."""
    path: set[int] = set()
    open_tokens = [token]
    while open_tokens:
        current = open_tokens.pop()
        if current not in kept and current not in path:
            path.add(current)
            open_tokens.extend(parents.get(current, ()))
    return path
