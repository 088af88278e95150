"""The symbol guard: rows of the head that stay at 16 bit while the rest of a file is quantised.

In:  a student's tokenizer, what it was trained on; a GGUF with a head of its own, the float head.
Out: the tokens to guard, as an editable list; the adapter beside the GGUF.
Does not know: runs, recipes, what a file is scored.

Code fails on one wrong bracket, and a quantised head errs most where it is asked most. See `models.gguf_adapter`.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from potstill.models.architecture import HEAD
from potstill.models.examples import Example
from potstill.models.gguf_adapter import adapter_path, write_row_adapter
from potstill.models.gguf_reader import dequantised, read_metadata
from potstill.models.positions import predicted
from potstill.problem import Problem
from potstill.run import write_text

HEADER = """\
# Tokens whose rows of the head stay at 16 bit, a JSON string a line, the commonest first.
# Edit a copy, and name it in the recipe: export.guard_tokens = "my-tokens.txt".
"""


def is_symbol(text: str) -> bool:
    """True for punctuation, brackets, operators, digits, and for line ends and indentation; of any script, no emoji."""
    return bool(text) and all(one.isspace() or _is_mark(one) for one in text)


def _is_mark(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind == "Nd" or kind[0] == "P" or (kind[0] == "S" and kind != "So")


def symbol_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id → text of every token that is all symbols; special tokens and parts of characters are none."""
    special = set(tokenizer.all_special_ids)
    ids = [number for number in range(len(tokenizer)) if number not in special]
    texts = tokenizer.batch_decode([[number] for number in ids], clean_up_tokenization_spaces=False)
    return {number: text for number, text in zip(ids, texts, strict=True) if is_symbol(text)}


def common_symbols(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], most: int) -> list[int]:
    """The symbol tokens that answers are made of, the commonest first, at most so many.

    Every row costs room in the adapter (half a byte for every token of the vocabulary): what never comes is left out.
    """
    counts = Counter(number for one in examples for number in one.ids[predicted(one.start, len(one.ids))].tolist())
    symbols = symbol_tokens(tokenizer)
    return [number for number, _ in counts.most_common() if number in symbols][:most]


def write_tokens(path: Path, tokenizer: PreTrainedTokenizerBase, rows: Sequence[int]) -> None:
    """Write the list of guarded tokens."""
    texts = tokenizer.batch_decode([[number] for number in rows], clean_up_tokenization_spaces=False)
    write_text(path, HEADER + "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts))


def read_tokens(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a list of tokens. Raises: Problem where a line is no JSON string, or no token of the student."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: cannot be read ({error})", "Give a UTF-8 text file, a JSON string a line.") from None
    texts = tokenizer.batch_decode([[number] for number in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    ids = {text: number for number, text in reversed(list(enumerate(texts)))}
    rows: dict[int, None] = {}
    for place, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            rows[ids[json.loads(line)]] = None
        except (ValueError, KeyError, TypeError):
            raise Problem(
                f"{path}, line {place}: {line} is not one token of this student", "Write it as in guard-tokens.txt."
            ) from None
    if not rows:
        raise Problem(f"{path} names no token", "Name at least one, or leave the guard out.")
    return list(rows)


def add_guard(gguf: Path, rows: Sequence[int], float_head: NDArray[np.float32]) -> Path:
    """Write the adapter of a GGUF whose head is its own; returns its path.

    Args:
        rows: ids to guard. float_head: [V, d] as trained.
    """
    stored = next((weight for name, weight in dequantised(gguf) if name == HEAD), None)
    if stored is None:
        raise ValueError(f"{gguf} has no head of its own")
    wanted = np.asarray(rows)
    family = str(read_metadata(gguf)["general.architecture"])
    write_row_adapter(adapter_path(gguf), family, list(rows), float_head[wanted] - stored[wanted], len(float_head))
    return adapter_path(gguf)
