"""Punctuation of chat answers: full-width where that was asked for, whole or streamed; code stays as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from page_server import ScriptedPool, running

from potstill.serve.settings import Settings

WRITTEN = '先洗米,再泡十分钟(冷水).代码:\n\n```python\nprint("a,b")\n```\n\n好了,吃吧!'
SHOWN = '先洗米，再泡十分钟（冷水）。代码：\n\n```python\nprint("a,b")\n```\n\n好了，吃吧！'
ENDS_IN_A_MARK = "好吗?"  # the filter is still holding it when the model has ended


@pytest.fixture(scope="module", params=["full", "keep", None])
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str | None, str]]:
    scripts = {"student": lambda asked: WRITTEN, "short": lambda asked: ENDS_IN_A_MARK}
    with running(ScriptedPool(scripts), Settings(port=0, marks=request.param)) as found:
        yield request.param, found


def ask(address: str, path: str = "chat/completions", **more: Any) -> requests.Response:
    asked = {"messages": [{"role": "user", "content": "?"}]} | more
    return requests.post(f"{address}/v1/{path}", json={"model": "student"} | asked, timeout=20)


def whole(address: str, **more: Any) -> str:
    return ask(address, **more).json()["choices"][0]["message"]["content"]


def streamed(address: str, **more: Any) -> list[str]:
    events = ask(address, stream=True, **more).content.decode().split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    return [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]


def test_a_stream_and_a_whole_answer_have_the_marks_that_were_asked_for(address: tuple[str | None, str]) -> None:
    marks, url = address
    expected = SHOWN if marks == "full" else WRITTEN
    assert whole(url) == expected
    pieces = streamed(url)
    assert "".join(pieces) == expected
    assert len(pieces) > 10
    assert (
        "".join(streamed(url, model="short")) == whole(url, model="short") == ("好吗？" if marks == "full" else "好吗?")
    )


def test_probabilities_come_with_the_models_own_text(address: tuple[str | None, str]) -> None:
    assert whole(address[1], logprobs=True) == WRITTEN


def test_two_answers_do_not_share_what_is_held_back(address: tuple[str | None, str]) -> None:
    marks, url = address
    ask(url, model="short")
    assert whole(url) == (SHOWN if marks == "full" else WRITTEN)
