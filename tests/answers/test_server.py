"""Answers asked from a server: a stand-in that speaks OpenAI's API, with the faults that servers have."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from answers.fakes import own, run_with
from potstill.answers import read_answers, server, ship, write_answers
from potstill.answers.writing import REFUSED
from potstill.models.engine import Sampling
from potstill.problem import Problem
from potstill.prompts.prompt import GOLDEN
from potstill.recipe import AnswersSection, with_server
from potstill.run import Run, read_json, write_json


class StandIn(ThreadingHTTPServer):
    """Answers every question with its text and seed; first gives out `faults`, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/v1"
        self.faults: list[int] = []
        self.unwanted: set[str] = set()
        self.seen: list[str] = []
        self.models = ["m"]
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers["Authorization"])
        if self.server.faults:
            self._send(self.server.faults.pop(), {"error": {"message": "not now"}})
            return
        self.server.seen.append(text := body["messages"][0]["content"])
        if text in self.server.unwanted:
            self._send(400, {"error": {"message": "data inspection failed"}})
            return
        self.server.asked.append(body)
        text = f"{body['messages'][0]['content']}{body['seed']}"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send(200, {"choices": [choice]})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status == 302:
            self.send_header("Location", "http://elsewhere.invalid/v1/chat/completions")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stand_in(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    teacher = SimpleNamespace(name="tiny", checkpoint=tiny_checkpoint, sha256="0" * 64)
    monkeypatch.setattr("potstill.models.teacher.find_teacher", lambda *_: teacher)
    monkeypatch.setattr(server, "FIRST_PAUSE_S", 0.001)
    made = StandIn()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def built(run: Run, address: str) -> Path:
    run.recipe = with_server(run.recipe, address)
    with run.building("answers", "1") as folder:
        write_answers(run, folder)
    return run.stage("answers")


def test_answers_say_who_wrote_them_and_never_pass_for_verified(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(server.KEY, "secret")
    run = run_with(tmp_path, own(5), answers={"context": 128, "max_tokens": 64, "slots": 3, "top_k": 7})
    folder = built(run, stand_in.address)
    answers = read_answers(folder / "answers.jsonl")
    assert [one.prompt for one in answers] == own(5)
    for one in answers:
        assert one.server == f"m at {stand_in.address}" and one.text == f"{one.prompt.text}{one.sampling['seed']}"
    report = read_json(folder / "report.json")
    assert report["engine"] == f"m at {stand_in.address}" and report["teacher_sha256"] is None
    assert stand_in.keys == {"Bearer secret"} and "secret" not in (folder / "report.json").read_text()
    body = stand_in.asked[0]
    assert (body["model"], body["top_k"], body["repetition_penalty"], body["max_tokens"]) == ("m", 7, 1.1, 64)
    with pytest.raises(Problem, match="a server wrote"):
        ship.ship(run.folder, tmp_path)


def test_a_busy_server_is_asked_again_and_a_refusal_is_resumed_from(tmp_path: Path, stand_in: StandIn) -> None:
    run = run_with(tmp_path, own(4), answers={"context": 128, "max_tokens": 64, "slots": 1})
    stand_in.faults = [429, 503]
    whole = built(run, stand_in.address).joinpath("answers.jsonl").read_bytes()
    assert len(stand_in.asked) == 4
    log = run.partial("answers") / "answers.part.jsonl"
    log.parent.mkdir()
    log.with_name(".fingerprint").write_text("1")
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    stand_in.faults = [403]
    with pytest.raises(Problem, match=r"refuses \(403: .*not now"):
        built(run, stand_in.address)
    assert built(run, stand_in.address).joinpath("answers.jsonl").read_bytes() == whole
    assert len({body["seed"] for body in stand_in.asked}) == 4


def test_a_prompt_that_the_server_does_not_take_is_left_out(tmp_path: Path, stand_in: StandIn) -> None:
    run = run_with(tmp_path, own(5), answers={"context": 128, "max_tokens": 64, "slots": 2})
    stand_in.unwanted = {own(5)[2].text}
    folder = built(run, stand_in.address)
    assert [one.prompt.id for one in read_answers(folder / "answers.jsonl")] == [own(5)[i].id for i in (0, 1, 3, 4)]
    (refused,) = read_json(folder / "report.json")["refused"]
    assert refused["id"] == own(5)[2].id and "data inspection failed" in refused["why"]


def test_what_was_refused_is_not_asked_again(tmp_path: Path, stand_in: StandIn) -> None:
    texts = [prompt.text for prompt in own(5)]
    run = run_with(tmp_path, own(5), answers={"context": 128, "max_tokens": 64, "slots": 1})
    stand_in.unwanted = {texts[1]}
    folder = built(run, stand_in.address)
    begun = run.partial("answers")
    begun.mkdir()
    (begun / ".fingerprint").write_text("1")
    (begun / "answers.part.jsonl").write_bytes((folder / "answers.jsonl").read_bytes().splitlines(keepends=True)[0])
    write_json(begun / REFUSED, {own(5)[1].id: "data inspection failed"})
    del stand_in.seen[:]
    folder = built(run, stand_in.address)
    assert stand_in.seen == texts[2:]
    assert read_json(folder / "report.json")["refused"] == [{"id": own(5)[1].id, "why": "data inspection failed"}]
    assert not list(folder.glob("*.part.*"))


def test_a_server_that_takes_nothing_is_told_at_once(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TELLING", 3)
    run = run_with(tmp_path, own(9), answers={"context": 128, "max_tokens": 64, "slots": 1})
    stand_in.unwanted = {prompt.text for prompt in own(9)}
    with pytest.raises(Problem, match=r"refuses \(400: .*data inspection failed"):
        built(run, stand_in.address)
    monkeypatch.setattr(server, "TELLING", 100)
    with pytest.raises(Problem, match=r"No training prompt has an answer .*data inspection failed"):
        built(run, stand_in.address)


def test_shipped_answers_are_not_another_teacher_s(tmp_path: Path, stand_in: StandIn) -> None:
    golden = [replace(prompt, source=GOLDEN) for prompt in own(2)]
    run = run_with(tmp_path, golden, answers={"context": 128, "max_tokens": 64})
    built(run, stand_in.address)
    assert len(stand_in.asked) == 2


def test_nobody_is_sent_elsewhere(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.faults = [302]
    run = run_with(tmp_path, own(1), answers={"context": 128, "max_tokens": 64})
    with pytest.raises(Problem, match="sends us elsewhere"):
        built(run, stand_in.address)


def test_of_several_models_one_is_named(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.models = ["m", "n"]
    run = run_with(tmp_path, own(1), answers={"context": 128, "max_tokens": 64})
    with pytest.raises(Problem, match=r"serves 2 models \(m, n\)"):
        built(run, stand_in.address)
    built(run, stand_in.address + "#n")
    assert stand_in.asked[0]["model"] == "n"


def test_a_key_from_a_file_of_windows_is_sent_without_its_line_end(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(server.KEY, "secret\r")
    server.Connection(stand_in.address).ask("POST", "/chat/completions", {"messages": [{"content": "x"}], "seed": 1})
    assert stand_in.keys == {"Bearer secret"}
    for wrong in ("sec\rret", "鑰匙"):
        monkeypatch.setenv(server.KEY, wrong)
        with pytest.raises(Problem) as told:
            server.Connection(stand_in.address)
        assert wrong not in str(told.value) and server.KEY in str(told.value)


@pytest.mark.parametrize("address", ["http://", "http://user:word@host/v1", "ftp://host/v1", "http://[::1/v1"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(Problem, match="is not a server's address"):
        server.Connection(address)


def test_whoever_breaks_off_waits_for_nobody(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A server that says nothing for minutes is left at once, and not asked again."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1#m"
        settings = AnswersSection.model_validate({"slots": 2})
        sampling = Sampling(temperature=0.0, top_p=1.0, top_k=1, seed=0, max_tokens=4, repeat_penalty=1.0)
        replies = server.Server(address, tiny_tokenizer, settings).write(own(3), sampling, [0, 1, 2])
        here = threading.get_ident()
        threading.Timer(0.2, lambda: signal.pthread_kill(here, signal.SIGINT)).start()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        try:
            with pytest.raises(KeyboardInterrupt):
                next(replies)
        finally:
            signal.signal(signal.SIGINT, before)
        for thread in threading.enumerate():
            if thread.name.startswith("potstill-server"):
                thread.join(30)
                assert not thread.is_alive()
