"""Answers with and without HTTP, models that come and go, and the end in the middle of an answer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from tiny_server import Start, wait_until

import potstill
from potstill.models import completion
from potstill.models.engine import NOTHING_MORE, Engine, Sampling, default_threads
from potstill.serve.errors import ApiError
from potstill.serve.metrics import Metrics
from potstill.serve.pool import Order, Pool
from potstill.serve.settings import Settings

LONG: dict[str, Any] = {
    "model": "student",
    "messages": [{"role": "user", "content": "hello there"}],
    "temperature": 0,
    "max_tokens": 200,
}
SHORT = LONG | {"max_tokens": 3}


def test_a_pool_answers_without_http(tiny_models: dict[str, Callable[[], Path]]) -> None:
    sampling = Sampling(temperature=0, top_p=1, top_k=0, seed=1, max_tokens=12, repeat_penalty=1)

    async def ask() -> None:
        pool = Pool(tiny_models, Settings(context=128), Metrics())
        order = Order("student", LONG["messages"], sampling)
        async with pool.answer(order, "me") as answer:
            pieces = [piece.text async for piece in answer]
        assert "".join(pieces) == answer.reply.text
        assert answer.reply.tokens == 12
        async with pool.answer(order, "me") as left:
            async for _ in left:
                break
        while pool.running:
            await asyncio.sleep(0.01)
        with pytest.raises(ApiError) as caught:
            async with pool.answer(Order("gpt-5", "x", sampling), "me"):
                pass
        assert caught.value.status == 404
        await pool.close()
        assert pool.loaded == ()

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_the_context_is_at_most_what_the_model_was_trained_for(start: Start) -> None:
    server = start(context=100_000)

    with pytest.raises(openai.BadRequestError, match="511"):
        server.client().chat.completions.create(**SHORT | {"messages": [{"role": "user", "content": "你好" * 1000}]})


def test_two_models_at_once_and_a_third_makes_room(start: Start, tiny_ggufs: dict[str, Path]) -> None:
    names = ("one", "two", "three")
    server = start({name: lambda: tiny_ggufs["F16"] for name in names})
    answers = [server.client().chat.completions.create(**SHORT | {"model": name}) for name in names]

    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert server.pool.loaded == ("two", "three")


def test_a_model_is_closed_when_nobody_asks_for_it(start: Start) -> None:
    server = start(idle_close_s=0.2)
    server.client().chat.completions.create(**SHORT)
    wait_until(lambda: server.pool.loaded == ())

    assert server.client().chat.completions.create(**SHORT).usage.completion_tokens == 3


def test_a_model_that_cannot_be_loaded_is_503_and_no_more_is_said(start: Start, tmp_path: Path) -> None:
    server = start({"student": lambda: tmp_path / "missing.gguf"})
    response = requests.post(f"{server.url}v1/chat/completions", json=SHORT, timeout=20)

    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
    assert str(tmp_path) not in response.text
    assert server.pool.running == 0


SERVING = """
import sys
from pathlib import Path
from potstill.serve import Settings, serve
serve(Path(sys.argv[1]), Settings(port=0), say=lambda line: print(line, flush=True))
print("ended", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_it_cleanly_in_the_middle_of_an_answer(tiny_gguf: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(potstill.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVING, str(tiny_gguf)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[2]
        request = LONG | {"model": tiny_gguf.stem, "stream": True, "max_tokens": 500}
        with requests.post(f"{url}v1/chat/completions", json=request, stream=True, timeout=20) as response:
            next(response.iter_content(10))
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=20)
    finally:
        process.kill()

    assert (process.returncode, out) == (0, "ended\n")
    assert "Traceback" not in errors


def test_an_answer_can_be_stopped_while_its_prompt_is_read(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = Sampling(temperature=0, top_p=1, top_k=0, seed=1, max_tokens=5, repeat_penalty=1)
    events: list[dict[str, Any]] = []
    take = completion.Answer.take
    with Engine(tiny_gguf, context=512, slots=1, threads=default_threads(1), stride=32) as engine:
        ids = engine.text_ids("hello there " * 60)[:400]

        def stop_at_the_third(self: completion.Answer, event: dict[str, Any]) -> bool:
            events.append(event)
            return take(self, event) or len(events) == 3

        monkeypatch.setattr(completion.Answer, "take", stop_at_the_third)
        with pytest.raises(RuntimeError, match="stopped"):
            engine.write(ids, sampling, NOTHING_MORE, lambda piece: None).future.result()
        monkeypatch.undo()

        assert [event["prompt_progress"]["processed"] for event in events] == [0, 32, 64]
        assert engine.write(ids, sampling, NOTHING_MORE, lambda piece: None).future.result().tokens == 5
