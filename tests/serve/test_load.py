"""Queues that overflow, clients that vanish, do not read, or all come at once; requests that a machine thinks up."""

from __future__ import annotations

import gc
import importlib.util
import json
import socket
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from tiny_server import Served, Start, wait_until

from potstill.models.engine import Engine
from potstill.serve.answering import AnswerResponse
from potstill.serve.pool import Answer


def benchmark(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LONG: dict[str, Any] = {
    "model": "student",
    "messages": [{"role": "user", "content": "hello there"}],
    "temperature": 0,
    "max_tokens": 200,
}
SHORT = LONG | {"max_tokens": 3}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
run_load = benchmark("serve_load").run_load


def hold(server: Served) -> tuple[socket.socket, bytes]:
    """A stream that has begun and is not read any further."""
    body = json.dumps(LONG | {"stream": True}).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection, connection.recv(4096)


@pytest.fixture
def slow_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model writes 200 tokens before anybody has looked; here each piece takes 20 ms."""
    write = Engine.write

    def slowly(self: Engine, prompt: Any, sampling: Any, wishes: Any, on_piece: Any) -> Any:
        def slow(piece: Any) -> None:
            time.sleep(0.02)
            on_piece(piece)

        return write(self, prompt, sampling, wishes, slow)

    monkeypatch.setattr(Engine, "write", slowly)


@pytest.mark.usefixtures("slow_models")
def test_beyond_the_queue_there_is_503_with_retry_after(start: Start) -> None:
    server = start(slots=1, queue=1)
    first, heard = hold(server)
    assert b"HTTP/1.1 200" in heard
    results: list[int] = []
    second = threading.Thread(
        target=lambda: results.append(
            requests.post(f"{server.url}v1/chat/completions", json=SHORT, timeout=30).status_code
        )
    )
    second.start()
    wait_until(lambda: server.pool.waiting == 1)

    refused = requests.post(f"{server.url}v1/chat/completions", json=SHORT | {"stream": True}, timeout=20)

    assert refused.status_code == 503
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["code"] == "queue_full"
    with pytest.raises(openai.InternalServerError):
        server.client().chat.completions.create(**SHORT)
    first.close()  # the slot is free at the next token
    second.join(20)
    assert results == [200]


@pytest.mark.usefixtures("slow_models")
def test_a_client_that_goes_frees_its_slot(start: Start) -> None:
    server = start(slots=1)
    server.client().chat.completions.create(**SHORT)
    for stream in (True, False):
        body = json.dumps(LONG | {"stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: bool(server.pool._writings))
        server.settle()
    assert 'end="stopped",model="student"} 2.0' in requests.get(f"{server.url}metrics", timeout=20).text


@pytest.mark.usefixtures("slow_models")
def test_a_client_that_goes_while_it_waits_leaves_the_queue(start: Start) -> None:
    server = start(slots=1)
    first, _ = hold(server)
    with pytest.raises(requests.Timeout):
        requests.post(f"{server.url}v1/chat/completions", json=SHORT, timeout=0.3)

    wait_until(lambda: server.pool.waiting == 0)
    assert server.pool.running == 1
    first.close()


@pytest.mark.usefixtures("slow_models")
def test_a_prompt_that_is_too_long_does_not_wait_for_its_refusal(start: Start) -> None:
    server = start(slots=1)
    first, _ = hold(server)
    long = SHORT | {"messages": [{"role": "user", "content": "你好" * 300}]}

    response = requests.post(f"{server.url}v1/chat/completions", json=long, timeout=20)

    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert server.pool.running == 1  # the one that was before it
    first.close()


def test_a_slow_reader_holds_nobody_up(start: Start) -> None:
    server = start(slots=1, max_tokens=240)
    slow, _ = hold(server)  # it has taken the first few bytes and takes no more

    answer = server.client(timeout=20).chat.completions.create(**SHORT)

    assert answer.usage.completion_tokens == 3
    rest = b""
    while b"[DONE]" not in rest:  # and in the end it gets everything
        rest += slow.recv(65536)
    slow.close()


def test_a_reader_that_never_reads_is_cut_off(start: Start) -> None:
    server = start(slots=1, stall_s=0.4)
    wide = LONG | {"stream": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(wide).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect(("127.0.0.1", server.port))
    requests_sent = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    connection.sendall(requests_sent * 30)  # pipelined, so that there is more than any socket's buffer holds

    wait_until(lambda: server.server.server_state.connections != set())
    wait_until(lambda: server.server.server_state.connections == set(), seconds=20)
    connection.close()
    server.settle()


@pytest.mark.usefixtures("slow_models")
def test_the_end_of_the_server_cuts_what_is_written_and_what_waits(start: Start) -> None:
    server = start(slots=1)
    first, heard = hold(server)
    results: list[int] = []
    waiting = threading.Thread(
        target=lambda: results.append(
            requests.post(f"{server.url}v1/chat/completions", json=SHORT, timeout=30).status_code
        )
    )
    waiting.start()
    wait_until(lambda: server.pool.waiting == 1)

    server.server.stop()

    while part := first.recv(65536):
        heard += part
    assert b'"code":"stopping"' in heard
    assert b"[DONE]" not in heard
    waiting.join(20)
    assert results == [503]


def test_under_load_every_answer_is_whole_or_refused_and_every_slot_comes_back(start: Start) -> None:
    server = start(slots=2, queue=6)
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 60}

    outcomes = run_load(server.url, "student", clients=24, requests_each=2, vanishing=0.25, chat=chat)

    counted = {kind: sum(outcome.kind == kind for outcome in outcomes) for kind in ("whole", "refused", "vanished")}
    assert sum(counted.values()) == len(outcomes) == 48
    assert all(counted.values())
    assert all(outcome.retry_after_s >= 1 for outcome in outcomes if outcome.kind == "refused")
    server.settle()
    assert requests.post(f"{server.url}v1/chat/completions", json=chat | {"model": "student"}, timeout=20).ok


def test_nothing_of_an_answer_outlives_it(start: Start) -> None:
    server = start(slots=2, queue=2)
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 20}

    run_load(server.url, "student", clients=10, requests_each=3, vanishing=0.2, chat=chat)
    server.settle()

    def left() -> list[Any]:
        gc.collect()
        return [thing for thing in gc.get_objects() if isinstance(thing, Answer | AnswerResponse)]

    wait_until(lambda: not left())
    assert not server.pool._writings


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_that_a_machine_thinks_up_makes_the_server_fail(served: Served, mode: GenerationMode) -> None:
    seen: set[int] = set()

    def check(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "student"  # any other would be all that is found wrong
            if mode is GenerationMode.POSITIVE:
                case.body["max_tokens"] = 8
        response = case.call(timeout=30)
        seen.add(response.status_code)
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    for result in schemathesis.openapi.from_url(f"{served.url}openapi.json").get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # where nothing is sent, nothing can be sent wrongly
        strategy = operation.as_strategy(generation_mode=mode)
        few = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        few(given(strategy)(check))()

    assert (200 if mode is GenerationMode.POSITIVE else 400) in seen
