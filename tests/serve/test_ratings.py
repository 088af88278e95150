"""Blind ratings over HTTP: ten turns, one vote each, and nothing that tells the models apart."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from page_server import ScriptedPool, build_app, write_rating

from potstill.evaluate.naturalness import ratings_file, read_ratings
from potstill.problem import Problem
from potstill.serve import ratings, server
from potstill.serve.errors import ApiError
from potstill.serve.ratings import paced
from potstill.serve.settings import Settings

MODELS = ("student", "teacher")


def scripted() -> ScriptedPool:
    return ScriptedPool(
        {
            "student": lambda asked: f"Short answer to {asked}",
            "teacher": lambda asked: f"Other, longer answer to {asked} 好。",
        },
        pause_s=0.0,
    )


def connect(pool: ScriptedPool, settings: Settings, address: str = "127.0.0.1") -> TestClient:
    return TestClient(build_app(pool, settings), base_url="http://127.0.0.1", client=(address, 50000))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(rating=write_rating(tmp_path), ratings_file=tmp_path / "ratings.sqlite")


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with connect(scripted(), settings) as opened:
        yield opened


def invite(client: TestClient, name: str = "Anna", **more: Any) -> str:
    answer = client.post("/operate/raters", json={"name": name, **more})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


def read(client: TestClient, url: str, side: str) -> str:
    answer = client.get(f"{url}/answer/{side}")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == {"end": True}
    return "".join(event["text"] for event in events[:-1])


def test_ten_turns(client: TestClient, tmp_path: Path) -> None:
    url = invite(client)
    state = client.get(f"{url}/state").json()
    for turn in range(1, 11):
        assert state == {"questions_total": 10, "turn": turn, "question": f"Question {turn}?", "done": False}
        answers = {side: read(client, url, side) for side in "ab"}
        assert sorted(answers.values()) == [
            f"Other, longer answer to Question {turn}? 好。",
            f"Short answer to Question {turn}?",
        ]
        better = "a" if answers["a"].startswith("Short") else "b"
        scores = {side: 5 if text.startswith("Short") else 2 for side, text in answers.items()}
        answer = client.post(f"{url}/vote", json={"turn": turn, **scores, "better": better})
        assert answer.status_code == 200
        state = answer.json()
    assert state["done"] is True
    assert client.get(f"{url}/answer/a").status_code == 409
    results = client.get("/operate/results").json()
    assert results["models"] == {
        "student": {"ratings": 10, "mean": 5.0, "better": 10},
        "teacher": {"ratings": 10, "mean": 2.0, "better": 0},
    }
    assert results["raters"] == [{"name": "Anna", "alias": "rater-1", "done": 10}]
    assert len(read_ratings(tmp_path / "ratings.sqlite")) == 20


def test_the_same_answer_again_without_asking_the_models_again(settings: Settings) -> None:
    pool = scripted()
    with connect(pool, settings) as client:
        url = invite(client)
        first = read(client, url, "a")
        pool.scripts = {name: lambda asked: "changed" for name in MODELS}
        assert read(client, url, "a") == first
        assert read(client, invite(client, "Bert"), "a") != "changed"  # shares the conversation
    asked = [(model, messages[0]["content"]) for model, messages in pool.asked]
    assert len(asked) == len(set(asked))


def test_both_answers_are_stored_before_either_is_shown(settings: Settings) -> None:
    pool = scripted()
    with connect(pool, settings) as client:
        url = invite(client)
        read(client, url, "b")
        assert {model for model, messages in pool.asked if messages[0]["content"] == "Question 1?"} == set(MODELS)


def test_nothing_that_a_rater_is_sent_names_a_model(client: TestClient) -> None:
    url = invite(client)
    sent = [client.get(f"{url}/state"), client.get(f"{url}/answer/a"), client.get(f"{url}/answer/b")]
    sent += [client.post(f"{url}/vote", json={"turn": 1, "a": 1, "b": 2, "better": "same"}) for _ in range(2)]
    for answer in sent:
        said = f"{answer.text} {dict(answer.headers)} {url}".lower()
        assert not any(name in said for name in MODELS)


def test_failure_of_one_model_looks_the_same_on_both_sides(settings: Settings) -> None:
    pool = scripted()

    def fail(asked: str) -> str:
        raise ApiError(503, "The model 'teacher' cannot be loaded.", code="model_unavailable")

    pool.scripts["teacher"] = fail
    with connect(pool, settings) as client:
        url = invite(client)
        texts = [client.get(f"{url}/answer/{side}").text for side in "ab"]
        events = [[line for line in text.split("\n\n") if line.startswith("data: ")] for text in texts]
        assert events[0] == events[1] == ['data: {"error": "The answers could not be prepared."}']


def test_a_busy_pool_is_asked_again(settings: Settings) -> None:
    pool = scripted()
    pool.busy = 1
    with connect(pool, settings) as client:
        assert read(client, invite(client), "a")


def test_one_vote_a_turn_and_no_turn_before_its_answers(client: TestClient) -> None:
    url = invite(client)
    ballot = {"turn": 1, "a": 3, "b": 4, "better": "b"}
    assert client.post(f"{url}/vote", json=ballot).status_code == 409  # not shown yet
    read(client, url, "a")
    assert client.post(f"{url}/vote", json=ballot).status_code == 200
    assert client.post(f"{url}/vote", json=ballot).status_code == 409
    assert client.post(f"{url}/vote", json={**ballot, "turn": 3}).status_code == 409
    assert client.get(f"{url}/state").json()["turn"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"a": 0},
        {"a": 6},
        {"b": 2.5},
        {"b": True},
        {"a": "3"},
        {"better": "c"},
        {"turn": 0},
        {"more": 1},
        {"better": None},
    ],
)
def test_a_wrong_ballot_is_refused(client: TestClient, change: dict[str, Any]) -> None:
    url = invite(client)
    read(client, url, "a")
    answer = client.post(f"{url}/vote", json={"turn": 1, "a": 3, "b": 4, "better": "b", **change})
    assert answer.status_code == 400
    assert client.get(f"{url}/state").json()["turn"] == 1


def test_a_form_from_another_site_is_refused(client: TestClient) -> None:
    url = invite(client)
    read(client, url, "a")
    body = json.dumps({"turn": 1, "a": 3, "b": 4, "better": "b"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert client.post(f"{url}/vote", content=body, headers={"Content-Type": kind}).status_code == 400
        forged = client.post("/operate/raters", content='{"name": "x"}', headers={"Content-Type": kind})
        assert forged.status_code == 400
    other = {"Origin": "http://evil.example"}
    assert client.post("/operate/raters", json={"name": "x"}, headers=other).status_code == 403
    assert client.get("/operate/results").json()["raters"] == [{"name": "Anna", "alias": "rater-1", "done": 0}]


def test_an_unknown_token_is_a_404(client: TestClient) -> None:
    invite(client)
    assert client.get("/rate/nonsense/state").status_code == 404
    assert client.get("/rate/nonsense/answer/a").status_code == 404
    assert client.post("/rate/nonsense/vote", json={"turn": 1, "a": 1, "b": 1, "better": "a"}).status_code == 404


def test_a_name_has_one_link_until_it_is_renewed(client: TestClient) -> None:
    url = invite(client)
    assert client.post("/operate/raters", json={"name": " Anna "}).status_code == 409
    other = invite(client, renew=True)
    assert client.get(f"{url}/state").status_code == 404
    assert client.get(f"{other}/state").status_code == 200
    assert client.post("/operate/raters", json={"name": "Bert", "renew": True}).status_code == 404
    for wrong in ("  ", "x" * 81, "\ud800", None, 3):
        body = json.dumps({"name": wrong})
        answer = client.post("/operate/raters", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, wrong


def test_only_the_operator_sees_results(settings: Settings) -> None:
    with connect(scripted(), settings, "192.0.2.7") as far:
        assert far.get("/operate/results").status_code == 403
        assert far.get("/operate/results.csv").status_code == 403
        assert far.post("/operate/raters", json={"name": "x"}).status_code == 403
    keyed = settings.model_copy(update={"api_key": Settings(api_key="0123456789abcdef").api_key})
    with connect(scripted(), keyed, "192.0.2.7") as far:
        assert far.get("/operate/results").status_code == 401
        assert far.get("/operate/results", headers={"Authorization": "Bearer 0123456789abcdeX"}).status_code == 401
        assert far.get("/operate/results", headers={"Authorization": "Bearer 0123456789abcdef"}).status_code == 200


def test_csv_has_a_line_for_each_rating(client: TestClient) -> None:
    url = invite(client, '=cmd|" /C calc"!A0')
    read(client, url, "a")
    client.post(f"{url}/vote", json={"turn": 1, "a": 3, "b": 4, "better": "b"})
    answer = client.get("/operate/results.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["side"], row["score"], row["better"]) for row in rows] == [("a", "3", "no"), ("b", "4", "yes")]
    assert {row["model"] for row in rows} == set(MODELS)
    assert "calc" not in answer.text  # a rater's name cannot become a formula


def test_a_rating_of_unknown_models_does_not_start(tmp_path: Path) -> None:
    wrong = write_rating(tmp_path, models=["student", "GPT"])
    with pytest.raises(Problem, match="'GPT'"):
        build_app(scripted(), Settings(rating=wrong, ratings_file=tmp_path / "ratings.sqlite"))


def test_pieces_depend_on_length_alone() -> None:
    async def lengths(text: str) -> list[int]:
        return [len(piece) async for piece in paced(text, 2000.0)]

    one, other = "短" * 200, "long words " * 18 + "ab"
    assert asyncio.run(lengths(one)) == asyncio.run(lengths(other))
    assert sum(asyncio.run(lengths(one))) == 200


@pytest.mark.parametrize(
    ("pace", "times"),
    [
        (16.0, [place / 16 for place in range(30)]),  # a character each
        (100.0, [place * 0.04 for place in range(8)]),  # four each: no more pieces a second than 25
    ],
)
def test_the_pace_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch, pace: float, times: list[float]) -> None:
    slept = [0.0]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def spend() -> list[float]:
        return [sum(slept) async for _ in paced("x" * 30, pace)]

    monkeypatch.setattr(ratings, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(ratings, "time", SimpleNamespace(monotonic=lambda: sum(slept)))

    assert asyncio.run(spend()) == times


class Enough(Exception):
    """The server would now begin."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Where the ratings of each server would go that is started."""
    files: list[Path | None] = []

    def create_app(_: object, settings: Settings) -> None:
        files.append(settings.ratings_file)
        raise Enough

    monkeypatch.setattr(server, "create_app", create_app)
    return files


def test_another_student_begins_without_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[Path | None]
) -> None:
    student = tmp_path / "student.gguf"
    for content in (b"one", b"another", b"one"):
        student.write_bytes(content)
        monkeypatch.setattr(server, "find_models", lambda *_: {"student": lambda: student})
        with pytest.raises(Enough):
            server.serve(tmp_path, Settings(rating=write_rating(tmp_path)))
        assert seen[-1] == ratings_file(tmp_path, student)
    assert seen[0] == seen[2] != seen[1]
    with pytest.raises(Enough):
        server.serve(tmp_path, Settings())
    assert seen[-1] is None
