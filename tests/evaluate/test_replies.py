"""Replies and likelihoods: the same every time, each computed once, kept one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from potstill.evaluate import replies
from potstill.evaluate.replies import Ask, Written, measure_likelihoods, open_notebook, write_replies
from potstill.models.engine import Sampling
from potstill.notebook import Notebook
from potstill.progress import Silent

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, seed=0, max_tokens=8, repeat_penalty=1.0)
SAMPLED = Sampling(temperature=1.0, top_p=1.0, top_k=0, seed=0, max_tokens=8, repeat_penalty=1.0)
ASKS = [Ask("你好", GREEDY), Ask("你好", SAMPLED), Ask("写一首诗。", GREEDY)]
ITEMS = [("天上有什么？", ("星星", "一条很长的鱼", "a")), ("1+1", ("2", "22"))]


def write(gguf: Path, folder: Path, asks: list[Ask] = ASKS, context: int = 96) -> tuple[list[Written], list[str]]:
    said: list[str] = []
    with Silent().task("", None, "") as task:
        return write_replies(gguf, asks, context, Notebook(folder / "notes.jsonl"), task, said.append), said


def weigh(gguf: Path, folder: Path, context: int = 96) -> list[list[float]]:
    with Silent().task("", None, "") as task:
        return measure_likelihoods(gguf, ITEMS, context, Notebook(folder / "notes.jsonl"), task)


def test_asked_again_from_nothing_a_model_says_the_same(tiny_gguf: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    assert write(tiny_gguf, first) == write(tiny_gguf, second)
    assert weigh(tiny_gguf, first) == weigh(tiny_gguf, second)


def test_what_is_known_is_not_asked_again(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, liked = write(tiny_gguf, tmp_path), weigh(tiny_gguf, tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(replies, "Team", refuse)
    monkeypatch.setattr(replies, "LlamaReader", refuse)

    assert write(tiny_gguf, tmp_path, ASKS[::-1])[0] == known[0][::-1]
    assert weigh(tiny_gguf, tmp_path) == liked


def test_a_stopped_sitting_goes_on_behind_the_last_reply(tiny_gguf: Path, tmp_path: Path) -> None:
    expected, _ = write(tiny_gguf, tmp_path / "whole")

    class Stop(Exception): ...

    class Stopping:
        left = 3  # the first advance counts what is known already: nothing

        def advance(self, amount: float = 1) -> None:
            self.left -= 1
            if self.left == 0:
                raise Stop

        def resume(self, amount: float) -> None:
            self.advance(amount)

        def describe(self, text: str) -> None: ...

    path = tmp_path / "notes.jsonl"
    with pytest.raises(Stop):
        write_replies(tiny_gguf, ASKS, 96, Notebook(path), Stopping(), print)
    path.write_text(path.read_text() + '["torn', encoding="utf-8")

    assert len([line for line in path.read_text().splitlines() if line.endswith("]")]) == 2
    assert write(tiny_gguf, tmp_path)[0] == expected


def test_a_question_that_fills_the_context_counts_as_unanswered(tiny_gguf: Path, tmp_path: Path) -> None:
    found, said = write(tiny_gguf, tmp_path, [Ask("你好" * 100, GREEDY), ASKS[0]], context=64)

    assert found[0] == Written("", False, 0)
    assert found[1].text
    assert "1 questions do not fit into 64 tokens" in said[0]


def test_likelihoods_are_those_of_transformers(
    tiny_gguf: Path, tiny_model: PreTrainedModel, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)

    for (question, choices), found in zip(ITEMS, weigh(tiny_gguf, tmp_path), strict=True):
        stem = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        begin = tokenizer(stem, add_special_tokens=False)["input_ids"]
        for choice, value in zip(choices, found, strict=True):
            ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                rows = tiny_model(torch.tensor([begin + ids])).logits[0, len(begin) - 1 : -1].double()
            expected = float(rows.log_softmax(-1)[np.arange(len(ids)), ids].sum())
            assert value == pytest.approx(expected, abs=0.02 * len(ids))


def test_no_likelihood_where_there_is_no_room(tiny_gguf: Path, tmp_path: Path) -> None:
    found = weigh(tiny_gguf, tmp_path, context=16)
    assert [len(values) for values in found] == [3, 2]
    assert np.isnan(np.concatenate(found)).all()


def test_a_notebook_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "notes.jsonl"
    Notebook(path).put("a", {"text": "一\n二"})
    with path.open("ab") as file:
        file.write('["b", "半'.encode()[:-1])
    Notebook(path).put("c", 3)

    again = Notebook(path)

    assert again["a"] == {"text": "一\n二"} and again["c"] == 3
    assert "b" not in again


def test_a_home_that_takes_no_files_costs_time_alone(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "stage"
    open_notebook(tiny_gguf, home, folder, fresh=False).put("a", 1)
    monkeypatch.setattr("os.access", lambda *_: False)
    notebook = open_notebook(tiny_gguf, home, folder, fresh=False)
    assert notebook["a"] == 1
    notebook.put("b", 2)
    assert len(list(folder.iterdir())) == 1 and open_notebook(tiny_gguf, home, folder, fresh=False)["b"] == 2
    assert "a" not in open_notebook(tiny_gguf, home, folder, fresh=True)
