"""What Prometheus reads is what happened, and two servers do not mix."""

from __future__ import annotations

from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families
from tiny_server import Served, Start

CHAT: dict[str, Any] = {
    "model": "student",
    "messages": [{"role": "user", "content": "hello there"}],
    "max_tokens": 12,
    "temperature": 0,
}


def samples(server: Served) -> dict[str, float]:
    """Sample name with its labels → value."""
    text = requests.get(f"{server.url}metrics", timeout=20).text
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_tokens_and_times_are_counted(start: Start) -> None:
    server = start()
    answers = [server.client().chat.completions.create(**CHAT) for _ in range(3)]
    requests.post(f"{server.url}v1/chat/completions", json=CHAT | {"n": 2}, timeout=20)
    requests.get(f"{server.url}made/up/{'x' * 50}", timeout=20)
    server.settle()

    found = samples(server)

    model = "('model', 'student')"
    assert found["potstill_requests_total[('path', '/v1/chat/completions'), ('status', '200')]"] == 3
    assert found["potstill_requests_total[('path', '/v1/chat/completions'), ('status', '400')]"] == 1
    assert found["potstill_requests_total[('path', 'other'), ('status', '404')]"] == 1
    written = sum(answer.usage.completion_tokens for answer in answers)
    assert found[f"potstill_tokens_total[('kind', 'completion'), {model}]"] == written == 36
    read = sum(answer.usage.prompt_tokens for answer in answers)
    assert found[f"potstill_tokens_total[('kind', 'prompt'), {model}]"] == read
    assert found[f"potstill_answers_total[('end', 'length'), {model}]"] == 3
    assert found[f"potstill_first_token_seconds_count[{model}]"] == 3
    assert 0 < found[f"potstill_first_token_seconds_sum[{model}]"] < 60
    assert 3 <= found[f"potstill_gap_seconds_count[{model}]"] <= 33
    assert found["potstill_wait_seconds_count[]"] == 3
    assert found["potstill_models_loaded[]"] == 1
    assert found["potstill_queue_waiting[]"] == found["potstill_answers_running[]"] == 0
    assert found["potstill_resident_memory_bytes[]"] > 2e7


def test_two_servers_count_for_themselves(start: Start) -> None:
    one, other = start(), start()
    one.client().models.list()

    key = "potstill_requests_total[('path', '/v1/models'), ('status', '200')]"
    assert samples(one)[key] == 1
    assert key not in samples(other)


def test_no_label_takes_what_a_client_thinks_of(start: Start) -> None:
    server = start()
    for name in ("a", "b", "c"):
        requests.get(f"{server.url}{name}", timeout=20)
        requests.get(f"{server.url}v1/models/{name}", timeout=20)
        requests.post(f"{server.url}v1/chat/completions", json=CHAT | {"model": name}, timeout=20)

    text = requests.get(f"{server.url}metrics", timeout=20).text

    paths = {line.split('path="')[1].split('"')[0] for line in text.splitlines() if 'path="' in line}
    assert paths == {"other", "/v1/models/{name}", "/v1/chat/completions"}
    assert 'model="a"' not in text
