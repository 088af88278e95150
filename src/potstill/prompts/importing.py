"""Prompts from files that people bring: JSON lines, CSV, plain text, a saved `datasets` folder.

In:  one file of the recipe.
Out: its questions, normalised, and every line that holds none, with the reason.
Does not know: other files, splits, duplicates, whether a bad line stops the run.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from potstill.problem import Problem, install
from potstill.prompts.normalise import normalise
from potstill.recipe import PromptFile

CATEGORY_FIELD = "category"
NOT_UTF8 = "not UTF-8"


@dataclass(frozen=True)
class Question:
    """One readable line."""

    text: str
    category: str
    given: str | None
    path: Path
    line: str


@dataclass(frozen=True)
class BadLine:
    """One line (or run of lines, `3-9`) that holds no prompt, and why."""

    path: Path
    line: str
    why: str


Row = tuple[str, Mapping[str, object] | str]
"""Line number, and what stands there by field; or why that can't be read."""


def read_questions(file: PromptFile) -> Iterator[Question | BadLine]:
    """Everything in the file, in order. Blank lines of a text file are no lines.

    Raises: Problem where the file is missing, of an unknown kind, or has no column of the recipe's name.
    """
    for line, fields in _reader(file.path)(file):
        yield BadLine(file.path, line, fields) if isinstance(fields, str) else _question(file, line, fields)


def _reader(path: Path) -> Callable[[PromptFile], Iterator[Row]]:
    if path.is_dir():
        return _dataset_rows
    if not path.is_file():
        raise Problem(f"{path}: no such file of prompts", "Correct prompts.files in the recipe.")
    readers = {".jsonl": _json_rows, ".ndjson": _json_rows, ".csv": _csv_rows, ".txt": _text_rows}
    if path.suffix.lower() not in readers:
        raise Problem(
            f"{path}: not a kind of file that holds prompts",
            "Give .jsonl (an object a line), .csv (with header), .txt (a prompt a line) or a dataset folder.",
        )
    return readers[path.suffix.lower()]


def _question(file: PromptFile, line: str, fields: Mapping[str, object]) -> Question | BadLine:
    texts = {}
    for field in (file.prompt_field, file.answer_field, CATEGORY_FIELD):
        value = fields.get(field)
        if value is not None and not isinstance(value, str):
            return BadLine(file.path, line, f"`{field}` is not text but a {type(value).__name__}")
        texts[field] = normalise(value or "")
    if file.prompt_field not in fields:
        return BadLine(file.path, line, f"no `{file.prompt_field}` among {list(fields)}")
    if not texts[file.prompt_field]:
        return BadLine(file.path, line, f"`{file.prompt_field}` is empty")
    return Question(
        text=texts[file.prompt_field],
        category=texts[CATEGORY_FIELD] or file.category,
        given=texts[file.answer_field] or None,
        path=file.path,
        line=line,
    )


def _text_lines(path: Path) -> Iterator[tuple[str, str | None]]:
    """Line number and line, None where it is not UTF-8; blank lines left out."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                yield str(number), line if _is_utf8(line) else None


def _text_rows(file: PromptFile) -> Iterator[Row]:
    for number, line in _text_lines(file.path):
        yield number, NOT_UTF8 if line is None else {file.prompt_field: line}


def _json_rows(file: PromptFile) -> Iterator[Row]:
    for number, line in _text_lines(file.path):
        yield number, NOT_UTF8 if line is None else _json_object(line)


def _json_object(line: str) -> Mapping[str, object] | str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    return value if isinstance(value, dict) else "not a JSON object"


def _csv_rows(file: PromptFile) -> Iterator[Row]:
    with file.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        rows = csv.reader(handle, strict=True)
        header = _csv_header(rows, file)
        while True:
            first = rows.line_num + 1
            try:
                cells = next(rows)
                why = "" if len(cells) == len(header) else f"{len(cells)} cells under {len(header)} columns"
                why = why if all(map(_is_utf8, cells)) else NOT_UTF8
            except StopIteration:
                return
            except csv.Error as error:
                cells, why = ["?"], str(error)
            if cells:
                # A quote that is never closed swallows lines: say which.
                line = str(first) if first == rows.line_num else f"{first}-{rows.line_num}"
                yield line, why or dict(zip(header, cells, strict=True))


def _csv_header(rows: Iterator[list[str]], file: PromptFile) -> list[str]:
    try:
        header = [normalise(name) for name in next(rows, [])]
    except csv.Error as error:
        raise Problem(f"{file.path}:1: {error}", "Mend the header line.") from None
    if file.prompt_field not in header:
        raise Problem(
            f"{file.path}:1: no column `{file.prompt_field}` among {header}",
            "Name the column in the recipe: prompt_field = …",
        )
    return header


def _dataset_rows(file: PromptFile) -> Iterator[Row]:
    try:
        from datasets import Dataset, load_from_disk
    except ImportError:
        raise Problem(f"{file.path}: a saved dataset needs the library `datasets`", install("datasets")) from None
    try:
        data = load_from_disk(str(file.path))
    except Exception as error:  # whatever a damaged folder makes of Arrow
        what = f"{file.path}: not a folder that `datasets` saved ({error})"
        raise Problem(what, "Save one with dataset.save_to_disk(…).") from None
    if not isinstance(data, Dataset):
        what = f"{file.path}: holds several splits ({', '.join(data)})"
        raise Problem(what, f"Name one of them: {file.path / next(iter(data))}")
    if file.prompt_field not in data.column_names:
        raise Problem(
            f"{file.path}: no column `{file.prompt_field}` among {data.column_names}",
            "Name the column in the recipe: prompt_field = …",
        )
    for number, row in enumerate(data, 1):
        yield str(number), row


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
