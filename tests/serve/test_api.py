"""What OpenAI's clients rely on: the real `openai` client and the one of `huggingface_hub`, against a real server."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import openai
import pytest
import requests
from huggingface_hub import InferenceClient
from tiny_server import Served

HELLO = [{"role": "user", "content": "hello there"}]
SAMPLED: dict[str, Any] = {"model": "student", "messages": HELLO, "temperature": 1.5, "max_tokens": 40, "seed": 3}
GREEDY: dict[str, Any] = {"model": "student", "messages": HELLO, "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.client()


def streamed(client: openai.OpenAI, **request: Any) -> tuple[str, list[Any]]:
    chunks = list(client.chat.completions.create(stream=True, **request))
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks


def test_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["student", "student-Q8_0"]
    assert client.models.retrieve("student").owned_by == "potstill"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_whole_answer_says_what_it_took(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY)

    choice, usage = answer.choices[0], answer.usage
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "length", 0)
    assert choice.message.content
    assert choice.logprobs is None
    assert usage.completion_tokens == 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (answer.object, answer.model) == ("chat.completion", "student")


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY)

    text, chunks = streamed(client, **GREEDY, stream_options={"include_usage": True})

    assert text == whole.choices[0].message.content
    assert len(chunks) > 5
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].potstill["first_token_ms"] > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_being_asked_no_chunk_has_usage(client: openai.OpenAI) -> None:
    _, chunks = streamed(client, **GREEDY)

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_the_stream_ends_with_done(served: Served) -> None:
    with requests.post(f"{served.url}v1/chat/completions", json=GREEDY | {"stream": True}, timeout=20) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        events = response.content.decode().split("\n\n")

    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events[:-2])


def test_another_client_streams_too(served: Served) -> None:
    client = InferenceClient(base_url=f"{served.url}v1", api_key="unused")

    whole = client.chat_completion(HELLO, model="student", temperature=0, max_tokens=24)
    chunks = list(client.chat_completion(HELLO, model="student", temperature=0, max_tokens=24, stream=True))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_same_seed_gives_the_same_text(client: openai.OpenAI) -> None:
    sampled = GREEDY | {"temperature": 1.5}
    texts = [
        client.chat.completions.create(**sampled, seed=seed, extra_body={"top_k": 0}).choices[0].message.content
        for seed in (7, 7, 8)
    ]

    assert texts[0] == texts[1] != texts[2]


def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    texts = {client.chat.completions.create(**GREEDY | {"temperature": 2}).choices[0].message.content for _ in range(3)}

    assert len(texts) > 1


def test_sampling_is_what_was_asked_for(client: openai.OpenAI) -> None:
    greedy = client.chat.completions.create(**GREEDY).choices[0].message.content
    hot = GREEDY | {"temperature": 2, "seed": 1}

    assert client.chat.completions.create(**hot, top_p=0.001).choices[0].message.content == greedy
    assert client.chat.completions.create(**hot, extra_body={"top_k": 1}).choices[0].message.content == greedy
    assert client.chat.completions.create(**GREEDY, frequency_penalty=2).choices[0].message.content != greedy


def border(pieces: list[str]) -> str:
    """A text of two characters that straddles a border between two pieces and comes nowhere earlier."""
    text = "".join(pieces)
    end = 0
    for one, other in pairwise(pieces):
        end += len(one)
        stop = one[-1] + other[0]
        if "\ufffd" not in stop and text.index(stop) == end - 1 > 2:
            return stop
    raise AssertionError("no border can be told from other places")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_is_found_across_a_token_border(client: openai.OpenAI, stream: bool) -> None:
    text, chunks = streamed(client, **SAMPLED)
    stop = border([piece for chunk in chunks if (piece := chunk.choices[0].delta.content)])

    if stream:
        found, chunks = streamed(client, **SAMPLED, stop=["never to be found", stop])
        finish = chunks[-1].choices[0].finish_reason
    else:
        choice = client.chat.completions.create(**SAMPLED, stop=stop).choices[0]
        found, finish = choice.message.content, choice.finish_reason

    assert found == text[: text.index(stop)]
    assert finish == "stop"


def test_the_models_own_end_is_stop(client: openai.OpenAI) -> None:
    """What has been written is made ever less likely, until the end of the turn is what is left."""
    away = {"frequency_penalty": 2, "presence_penalty": 2, "extra_body": {"top_k": 0, "repeat_penalty": 2}}

    for seed in range(20):
        request = SAMPLED | {"temperature": 2, "seed": seed, "max_tokens": 200, "logprobs": True}
        answer = client.chat.completions.create(**request, **away)
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            assert answer.usage.completion_tokens < 200
            assert "<|im_end|>" not in choice.message.content
            assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
            return
    raise AssertionError("no answer ended by itself")


def test_logprobs_of_a_greedy_answer_are_those_of_the_likeliest_tokens(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content

    assert "".join(entry.token for entry in entries) == choice.message.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.content
    for entry in entries:
        likeliest = [other.logprob for other in entry.top_logprobs]
        assert len(likeliest) == 3
        assert likeliest == sorted(likeliest, reverse=True)
        assert entry.logprob == likeliest[0] <= 0
        assert sum(map(math.exp, likeliest)) <= 1.0001


def test_streamed_logprobs_are_the_whole_ones(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, logprobs=True).choices[0]

    _, chunks = streamed(client, **GREEDY, logprobs=True)

    entries = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert entries == whole.logprobs.content
    assert all(entry.top_logprobs == [] for entry in entries)


def test_a_stop_text_takes_its_probabilities_along(client: openai.OpenAI) -> None:
    _, chunks = streamed(client, **SAMPLED)
    stop = border([piece for chunk in chunks if (piece := chunk.choices[0].delta.content)])

    choice = client.chat.completions.create(**SAMPLED, stop=stop, logprobs=True).choices[0]

    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content


def test_plain_completions(client: openai.OpenAI) -> None:
    request = {"model": "student", "prompt": "def add(first", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**request, logprobs=2)

    chunks = list(client.completions.create(**request, stream=True))

    choice = whole.choices[0]
    assert (choice.finish_reason, whole.usage.completion_tokens) == ("length", 12)
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert "".join(choice.logprobs.tokens) == choice.text
    assert [choice.text[at] for at in choice.logprobs.text_offset] == [token[0] for token in choice.logprobs.tokens]
    assert all(
        max(named.values()) == own
        for named, own in zip(choice.logprobs.top_logprobs, choice.logprobs.token_logprobs, strict=True)
    )


def test_a_completion_goes_on_from_the_plain_text(client: openai.OpenAI, served: Served) -> None:
    rendered = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"

    plain = client.completions.create(model="student", prompt=rendered, max_tokens=24, temperature=0)

    chat = client.chat.completions.create(**GREEDY)
    assert plain.choices[0].text == chat.choices[0].message.content
    assert plain.usage == chat.usage


def test_parts_and_roles_that_mean_the_same_are_the_same(client: openai.OpenAI) -> None:
    plain = [{"role": "system", "content": "Be short."}, *HELLO]
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]},
        {"role": "user", "content": [{"type": "text", "text": "hello there"}]},
    ]

    answers = [client.chat.completions.create(**GREEDY | {"messages": messages}) for messages in (plain, parts, HELLO)]

    assert answers[0].choices[0].message == answers[1].choices[0].message != answers[2].choices[0].message


def test_fields_that_clients_send_along_are_passed_over(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **GREEDY,
        user="me",
        n=1,
        metadata={"a": "b"},
        store=False,
        tools=[],
        logit_bias={},
        response_format={"type": "text"},
        stop=None,
        extra_body={"something_new": [1, 2]},
    )

    assert answer.choices[0].message.content == client.chat.completions.create(**GREEDY).choices[0].message.content


def test_max_tokens_has_two_names_and_a_limit(client: openai.OpenAI, served: Served) -> None:
    short = GREEDY | {"max_tokens": None, "max_completion_tokens": 3}
    endless = GREEDY | {"max_tokens": 10**9, "temperature": 0}

    assert client.chat.completions.create(**short).usage.completion_tokens == 3
    assert client.chat.completions.create(**endless).usage.completion_tokens <= served.settings.max_tokens


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
        ),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": 7}, "stop"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"stream": "perhaps"}, "stream"),
        ({"seed": 2**64}, "seed"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_field_is_named(served: Served, change: dict[str, Any], param: str) -> None:
    response = requests.post(f"{served.url}v1/chat/completions", json=GREEDY | change, timeout=20)

    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert error["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "suffix": "z"}, "suffix"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
    ],
)
def test_a_wrong_field_of_a_completion_is_named(served: Served, change: dict[str, Any], param: str) -> None:
    response = requests.post(f"{served.url}v1/completions", json={"model": "student"} | change, timeout=20)

    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**GREEDY | {"model": "gpt-5"})

    assert caught.value.code == "model_not_found"
    assert "student" in caught.value.message


def test_room_for_the_answer_is_kept_where_it_is_asked_for(served: Served) -> None:
    asked = GREEDY | {"messages": [{"role": "user", "content": "你好" * 40}]}
    served.client().chat.completions.create(**asked, extra_body={"room": 0.0})
    with pytest.raises(openai.BadRequestError) as caught:
        served.client().chat.completions.create(**asked, extra_body={"room": 0.9})
    assert caught.value.code == "context_length_exceeded" and "26" in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_refused_before_any_work(served: Served, stream: bool) -> None:
    long = GREEDY | {"messages": [{"role": "user", "content": "你好" * 300}], "stream": stream}

    with pytest.raises(openai.BadRequestError) as caught:
        served.client().chat.completions.create(**long)

    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert "255" in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{\x00}\x00",
        b"\x80abc",
        b'{"model": "student", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "student", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "student", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "student", "messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
        b'{"a":' * 20_000,
        b"[" * 100_000,
    ],
    ids=range(13),
)
def test_what_is_no_request_is_refused(served: Served, body: bytes) -> None:
    for endpoint in ("chat/completions", "completions"):
        response = requests.post(
            f"{served.url}v1/{endpoint}", data=body, headers={"Content-Type": "application/json"}, timeout=20
        )
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_form_or_plain_text_is_no_json(served: Served) -> None:
    """What a page of another site may send without asking."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = requests.post(
            f"{served.url}v1/chat/completions", data=json.dumps(GREEDY), headers={"Content-Type": kind}, timeout=20
        )
        assert response.status_code == 400


def test_unknown_paths_and_methods_have_the_same_shape(served: Served) -> None:
    missing = requests.get(f"{served.url}v1/nothing", timeout=20)
    wrong = requests.get(f"{served.url}v1/chat/completions", timeout=20)

    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert set(wrong.json()["error"]) == {"message", "type", "param", "code"}


def test_script_in_a_prompt_comes_back_as_json_alone(served: Served) -> None:
    script = "<script>alert(1)</script>"
    response = requests.post(f"{served.url}v1/chat/completions", json=GREEDY | {"model": script}, timeout=20)

    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_health(served: Served) -> None:
    assert requests.get(f"{served.url}health", timeout=20).json() == {"status": "ok"}
