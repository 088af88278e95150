"""Which tokens are guarded, how their list is read and written, and what comes of it in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from potstill.export.guard import common_symbols, is_symbol, read_tokens, symbol_tokens, write_tokens
from potstill.export.writing import TOKENS_FILE, StudentFiles
from potstill.models.engine import Engine, default_threads
from potstill.models.examples import Example
from potstill.models.gguf_adapter import adapter_path
from potstill.models.llama import LlamaReader
from potstill.models.teacher import load_tokenizer
from potstill.problem import Problem
from potstill.run import Run

Exporting = Callable[..., Run]


@pytest.mark.parametrize(
    "text", ["(", "):\n", "    ", "\n\n", "\t", "==", "7", "。", "，", "「", "+=", " =", "０", "`", "$"]
)
def test_symbols(text: str) -> None:
    assert is_symbol(text)


@pytest.mark.parametrize("text", ["", "a", " def", "x=", "你", "。好", "🙂", "\ufffd", "é", "_a"])
def test_no_symbols(text: str) -> None:
    assert not is_symbol(text)


def test_special_tokens_are_no_symbols(tiny_student: Path) -> None:
    tokenizer = load_tokenizer(tiny_student)
    found = symbol_tokens(tokenizer)
    assert not set(tokenizer.all_special_ids) & set(found)
    assert {"(", "\n", "。", "1"} <= set(found.values())


def test_the_commonest_come_first_and_no_more_than_wanted(tiny_student: Path, answers: list[Example]) -> None:
    tokenizer = load_tokenizer(tiny_student)
    rows = common_symbols(tokenizer, answers, 5)
    counts = Counter(number for one in answers for number in one.ids[one.start :].tolist())
    assert len(rows) == 5 and all(number in symbol_tokens(tokenizer) for number in rows)
    assert [counts[number] for number in rows] == sorted((counts[n] for n in rows), reverse=True)
    left_out = set(symbol_tokens(tokenizer)) - set(rows)
    assert max(counts[number] for number in left_out) <= counts[rows[-1]]


def test_the_list_comes_back(tiny_student: Path, answers: list[Example], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_student)
    rows = common_symbols(tokenizer, answers, 40)
    write_tokens(tmp_path / "tokens.txt", tokenizer, rows)
    assert read_tokens(tmp_path / "tokens.txt", tokenizer) == rows


@pytest.mark.parametrize(("line", "place"), [("(", 2), ('"no such token at all"', 2), ("3", 2)])
def test_a_line_that_is_no_token_is_named(tiny_student: Path, tmp_path: Path, line: str, place: int) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(f"# mine\n{line}\n", encoding="utf-8")
    with pytest.raises(Problem, match=f"line {place}: .* is not one token"):
        read_tokens(path, load_tokenizer(tiny_student))


def test_an_empty_list_is_refused(tiny_student: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("# nothing\n\n", encoding="utf-8")
    with pytest.raises(Problem, match="names no token"):
        read_tokens(tmp_path / "tokens.txt", load_tokenizer(tiny_student))


def test_a_guarded_file_and_its_parts(exporting: Exporting, answers: list[Example]) -> None:
    """Guarded rows come back to a head of float; all other rows are those of the file alone, to the bit."""
    run = exporting(types=("Q4_0-embedding-Q4_1-guard",), ship="Q4_0-embedding-Q4_1-guard", guard_most=20)
    files = StudentFiles(run, run.folder / "export", "stamp")
    entry = files.write("Q4_0-embedding-Q4_1-guard")
    path = files.path("Q4_0-embedding-Q4_1-guard")
    assert entry["guarded"] == 20 and entry["adapter"] == adapter_path(path).name
    sizes = path.stat().st_size + adapter_path(path).stat().st_size
    assert entry["megabytes"] == pytest.approx(sizes / 1e6)
    assert read_tokens(files.folder / TOKENS_FILE, load_tokenizer(files.checkpoint)) == files.guarded
    ids = answers[0].ids.tolist()
    with LlamaReader(path, context=64, threads=1, exact=True) as reader:
        guarded = reader.logits(ids)
    with Engine(path, context=64, slots=1, threads=default_threads(1)) as engine:
        assert engine.count_tokens("def add") > 0
    adapter_path(path).rename(path.with_name("away"))
    with LlamaReader(path, context=64, threads=1, exact=True) as reader:
        plain = reader.logits(ids)
    changed = np.abs(guarded - plain).max(axis=0) > 0
    assert set(np.flatnonzero(changed)) <= set(files.guarded) and changed.sum() >= 15


def test_ones_own_list_counts(exporting: Exporting, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(json.dumps("(") + "\n" + json.dumps("\n") + "\n", encoding="utf-8")
    run = exporting(types=("Q4_0-guard",), ship="Q4_0-guard", guard_tokens=mine)
    files = StudentFiles(run, run.folder / "export", "stamp")
    tokenizer = load_tokenizer(files.checkpoint)
    assert tokenizer.batch_decode([[number] for number in files.guarded]) == ["(", "\n"]
