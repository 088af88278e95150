"""Tests of reading prompts from files that people bring."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.problem import Problem
from potstill.prompts.importing import BadLine, Question, read_questions
from potstill.prompts.normalise import normalise
from potstill.recipe import PromptFile


def read(path: Path, content: bytes | str | None = None, **fields: Any) -> list[Question | BadLine]:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_questions(PromptFile(path=path, **fields)))


def texts(found: list[Question | BadLine]) -> list[str]:
    assert all(isinstance(one, Question) for one in found), found
    return [one.text for one in found if isinstance(one, Question)]


def bad(found: list[Question | BadLine]) -> list[tuple[str, str]]:
    return [(one.line, one.why) for one in found if isinstance(one, BadLine)]


def test_json_lines(tmp_path: Path) -> None:
    found = read(
        tmp_path / "own.jsonl",
        '\ufeff{"prompt": " 怎么煮面？ ", "answer": "水开下面。", "category": "cooking"}\n\n{"prompt": "再见"}',
    )
    assert found == [
        Question("怎么煮面？", "cooking", "水开下面。", tmp_path / "own.jsonl", "1"),
        Question("再见", "own", None, tmp_path / "own.jsonl", "3"),
    ]


def test_fields_have_the_names_the_recipe_gives(tmp_path: Path) -> None:
    found = read(
        tmp_path / "own.jsonl",
        '{"问": "怎么煮面？", "答": "水开下面。"}',
        prompt_field="问",
        answer_field="答",
        category="kitchen",
    )
    assert found == [Question("怎么煮面？", "kitchen", "水开下面。", tmp_path / "own.jsonl", "1")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"prompt": "a"', "not valid JSON"),
        (b'["a"]', "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"prompt": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"question": "a"}', "no `prompt` among ['question']"),
        (b"{}", "no `prompt` among []"),
        (b'{"prompt": null}', "`prompt` is empty"),
        (b'{"prompt": " \\u0000 "}', "`prompt` is empty"),
        (b'{"prompt": 3}', "`prompt` is not text but a int"),
        (b'{"prompt": ["a"]}', "`prompt` is not text but a list"),
        (b'{"prompt": "a", "answer": 3}', "`answer` is not text"),
        (b'{"prompt": "a", "category": {}}', "`category` is not text"),
        ('{"prompt": "怎么煮面"}'.encode("gb18030"), "not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16-le"), "not valid JSON"),
    ],
)
def test_bad_json_line_is_told_by_its_number(tmp_path: Path, line: bytes, why: str) -> None:
    found = read(tmp_path / "own.jsonl", b'{"prompt": "a"}\n' + line + b'\n{"prompt": "b"}\n')
    assert [(number, text.startswith(why)) for number, text in bad(found)] == [("2", True)], bad(found)
    assert texts([one for one in found if isinstance(one, Question)]) == ["a", "b"]


def test_line_separator_inside_a_text_is_not_a_line_end(tmp_path: Path) -> None:
    """Python's splitlines would cut here, JSON and editors don't."""
    assert texts(read(tmp_path / "own.jsonl", '{"prompt": "甲\u2028乙"}\n')) == ["甲\n乙"]


def test_lone_surrogate_is_removed(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "own.jsonl", '{"prompt": "a\\ud83d"}')) == ["a"]


def test_plain_text(tmp_path: Path) -> None:
    found = read(tmp_path / "own.txt", "怎么煮面？\r\n\r\n  再见\n\x00\n最后")
    assert [one.text for one in found if isinstance(one, Question)] == ["怎么煮面？", "再见", "最后"]
    assert bad(found) == [("4", "`prompt` is empty")]


def test_plain_text_in_another_encoding(tmp_path: Path) -> None:
    assert bad(read(tmp_path / "own.txt", "怎么煮面？\n再见\n".encode("gb18030"))) == [
        ("1", "not UTF-8"),
        ("2", "not UTF-8"),
    ]


def test_csv(tmp_path: Path) -> None:
    found = read(
        tmp_path / "own.csv",
        '\ufeffid,prompt,answer\r\n1,"甲,\n乙",\r\n\r\n2,"说""好""",好\r\n3,丙,丁\r\n',
    )
    path = tmp_path / "own.csv"
    assert found == [
        Question("甲,\n乙", "own", None, path, "2-3"),
        Question('说"好"', "own", "好", path, "5"),
        Question("丙", "own", "丁", path, "6"),
    ]


@given(rows=st.lists(st.tuples(st.text(), st.text()), min_size=1))
@settings(deadline=None, max_examples=50)
def test_csv_reads_back_what_was_written(rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / "own.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "answer"), *rows])
    expected = [(normalise(text), normalise(answer) or None) for text, answer in rows]
    found = [(one.text, one.given) if isinstance(one, Question) else ("", None) for one in read(path)]
    assert [pair for pair in found if pair[0]] == [pair for pair in expected if pair[0]]


@pytest.mark.parametrize(
    ("rows", "line", "why"),
    [
        ("甲\n", "3", "1 cells under 2 columns"),
        ("甲,乙,丙\n", "3", "3 cells under 2 columns"),
        (" ,乙\n", "3", "`prompt` is empty"),
        ('"甲"乙,丙\n', "3", "',' expected after '\"'"),
        ('"甲,乙\n丙,丁\n', "3-4", "unexpected end of data"),
    ],
)
def test_bad_csv_row_is_told_by_its_number(tmp_path: Path, rows: str, line: str, why: str) -> None:
    found = read(tmp_path / "own.csv", f"prompt,answer\n好,的\n{rows}")
    assert bad(found) == [(line, why)]
    assert isinstance(found[0], Question)


def test_bad_csv_row_in_another_encoding(tmp_path: Path) -> None:
    assert bad(read(tmp_path / "own.csv", b"prompt\nok\n" + "怎么".encode("gb18030") + b"\n")) == [("3", "not UTF-8")]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("own.csv", "question\n甲\n", "no column `prompt` among ['question']"),
        ("own.csv", "", "no column `prompt`"),
        ("own.xlsx", "PK", "not a kind of file that holds prompts"),
        ("own", "甲", "not a kind of file that holds prompts"),
    ],
)
def test_file_that_cannot_hold_prompts(tmp_path: Path, name: str, content: str, what: str) -> None:
    with pytest.raises(Problem, match="own") as caught:
        read(tmp_path / name, content)
    assert what in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such file of prompts"):
        read(tmp_path / "absent.jsonl")


def test_saved_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the optional library datasets")
    rows = {"prompt": ["甲？", "", "乙？"], "answer": ["一", "二", None], "n": [1, 2, 3]}
    dataset = datasets.Dataset.from_dict(rows)
    dataset.save_to_disk(tmp_path / "one")
    found = read(tmp_path / "one")
    assert found == [
        Question("甲？", "own", "一", tmp_path / "one", "1"),
        BadLine(tmp_path / "one", "2", "`prompt` is empty"),
        Question("乙？", "own", None, tmp_path / "one", "3"),
    ]
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "two")
    with pytest.raises(Problem, match=r"holds several splits.*Name one of them"):
        read(tmp_path / "two")
    assert len(read(tmp_path / "two" / "train")) == 3
    with pytest.raises(Problem, match="no column `question`"):
        read(tmp_path / "one", prompt_field="question")
    (tmp_path / "three").mkdir()
    with pytest.raises(Problem, match="not a folder that `datasets` saved"):
        read(tmp_path / "three")


def test_dataset_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Problem, match=r"-m pip install -e '\.\[datasets\]'"):
        read(tmp_path)


@given(prompts=st.lists(st.text().filter(normalise), min_size=1))
@settings(deadline=None, max_examples=50)
def test_json_reads_back_what_was_written(prompts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "own.jsonl"
    lines = [json.dumps({"prompt": text}, ensure_ascii=place % 2 == 0) for place, text in enumerate(prompts)]
    assert texts(read(path, "\n".join(lines))) == [normalise(text) for text in prompts]
