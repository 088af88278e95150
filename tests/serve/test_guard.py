"""What must not get in, and what every response carries."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_server import Served, Start, wait_until

from potstill.problem import Problem
from potstill.serve.access import path_for_log
from potstill.serve.app import PAGE_FOLDER, create_app
from potstill.serve.guard import is_known_host, is_local
from potstill.serve.server import address_of, open_port
from potstill.serve.settings import Settings, is_loopback

KEY = "a-key-of-some-length"
CHAT: dict[str, Any] = {
    "model": "student",
    "messages": [{"role": "user", "content": "hello there"}],
    "max_tokens": 4,
    "temperature": 0,
}


def speak(served: Served, sent: bytes, *, wait_s: float = 10.0) -> bytes:
    """Raw bytes to the server; what it says until it closes."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=wait_s) as connection:
        connection.sendall(sent)
        heard = b""
        while part := connection.recv(65536):
            heard += part
        return heard


def get(served: Served, path: str, host: str) -> int:
    """Status of a GET whose path and Host go out as they are."""
    heard = speak(served, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return int(heard.split()[1])


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "", "[", "@"]
)
def test_a_name_that_is_not_ours_is_refused(served: Served, host: str) -> None:
    assert get(served, "/v1/models", host) in (400, 403)
    assert get(served, "/health", host) in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:8080", "192.168.1.7:80"])
def test_addresses_and_localhost_are_known(served: Served, host: str) -> None:
    assert get(served, "/v1/models", host) == 200


def test_whoever_calls_by_another_name_is_told_what_helps(served: Served) -> None:
    response = requests.get(f"{served.url}health", headers={"Host": "still.example"}, timeout=20)

    assert (response.status_code, response.json()["error"]["code"]) == (403, "unknown_host")
    assert all(way in response.json()["error"]["message"] for way in ("--allowed-host NAME", "IP address"))


def test_a_request_without_a_host_is_refused(served: Served) -> None:
    assert b" 403 " in speak(served, b"GET /health HTTP/1.0\r\n\r\n")
    assert b" 400 " in speak(served, b"GET /health HTTP/1.1\r\n\r\n")


def test_names_can_be_allowed() -> None:
    own = Settings(allowed_hosts=("Still.example",))

    assert is_known_host("still.example:443", own)
    assert is_known_host("still.example.", own)
    assert not is_known_host("other.example", own)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://[", ""])
def test_pages_of_other_sites_may_change_nothing(served: Served, origin: str) -> None:
    response = requests.post(f"{served.url}v1/chat/completions", json=CHAT, headers={"Origin": origin}, timeout=20)

    assert (response.status_code, response.json()["error"]["code"]) == (403, "unknown_origin")
    assert "access-control-allow-origin" not in response.headers


def test_our_own_pages_may(served: Served) -> None:
    own = {"Origin": served.url.rstrip("/")}

    assert requests.post(f"{served.url}v1/chat/completions", json=CHAT, headers=own, timeout=20).status_code == 200


def test_no_other_site_is_told_that_it_may_ask(served: Served) -> None:
    stranger = {"Origin": "https://evil.example"}
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}

    preflight = requests.options(f"{served.url}v1/chat/completions", headers=stranger | ask, timeout=20)
    answered = requests.get(f"{served.url}v1/models", headers=stranger, timeout=20)

    for response in (preflight, answered):
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "some.name"])
def test_an_open_address_needs_a_key_worth_the_name(host: str) -> None:
    assert not is_loopback(host)
    for key in (None, "short"):
        with pytest.raises(Problem, match="API key"):
            create_app({}, Settings(host=host, api_key=key))
    create_app({}, Settings(host=host, api_key=KEY))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)
    create_app({}, Settings(host=host))


def test_with_a_key_nothing_but_pages_and_health_is_open(start: Start) -> None:
    server = start(api_key=KEY)

    for path in ("v1/models", "metrics", "openapi.json", "operate/results", "v1/nothing"):
        assert requests.get(f"{server.url}{path}", timeout=20).status_code == 401
    for path in ("health", "static/style.css"):
        assert requests.get(f"{server.url}{path}", timeout=20).status_code == 200
    assert [model.id for model in server.client(api_key=KEY).models.list()] == ["student", "student-Q8_0"]
    for wrong in ("wrong", KEY + "x", KEY[:-1]):
        with pytest.raises(openai.AuthenticationError) as caught:
            server.client(api_key=wrong).chat.completions.create(**CHAT)
        assert caught.value.code == "invalid_api_key"
    assert requests.get(f"{server.url}v1/models", headers={"Authorization": KEY}, timeout=20).status_code == 401


def test_the_key_is_not_in_what_settings_print() -> None:
    assert KEY not in repr(Settings(api_key=KEY))


def scope(host: str, client: str, **headers: str) -> dict[str, Any]:
    named = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {"type": "http", "client": (client, 1), "headers": [(k.encode(), v.encode()) for k, v in named.items()]}


def test_local_is_who_asks_from_this_machine_and_not_through_a_proxy() -> None:
    assert is_local(scope("localhost:8080", "127.0.0.1"))
    assert is_local(scope("[::1]", "::1"))
    assert not is_local(scope("localhost", "192.168.1.9"))
    assert not is_local(scope("still.example", "127.0.0.1"))
    assert not is_local(scope("localhost", "127.0.0.1", x_forwarded_for="10.0.0.1"))


def test_a_body_beyond_the_limit_is_refused(start: Start) -> None:
    server = start(body_kb=4)
    large = CHAT | {"messages": [{"role": "user", "content": "x" * 5000}]}

    declared = requests.post(f"{server.url}v1/chat/completions", json=large, timeout=20)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    lying = speak(server, head + b"Content-Length: 99999999999999\r\n\r\n{")
    chunked = speak(
        server, head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n1\r\nx\r\n"
    )

    assert (declared.status_code, declared.json()["error"]["code"]) == (413, "body_too_large")
    assert b" 413 " in lying
    assert b" 413 " in chunked


def test_a_body_that_takes_too_long_is_refused(start: Start) -> None:
    server = start(body_s=0.2)

    heard = speak(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")

    assert b" 408 " in heard


def test_a_head_that_takes_too_long_is_cut_off(start: Start) -> None:
    server = start(head_s=0.3)
    begun = time.monotonic()

    assert speak(server, b"") == b""  # says nothing at all
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow, pytest.raises(OSError):
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        while time.monotonic() - begun < 10:  # one header a moment
            slow.sendall(b"X-A: b\r\n")
            time.sleep(0.05)
    assert requests.get(f"{server.url}health", timeout=20).status_code == 200


def test_a_connection_may_rest_between_two_requests_longer_than_a_head_may_take(start: Start) -> None:
    server = start(head_s=0.2)
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        for _ in range(2):
            connection.sendall(request)
            heard = b""
            while b"ok" not in heard:
                heard += connection.recv(65536)
            time.sleep(0.5)


def test_a_head_beyond_the_limit_is_refused(served: Served) -> None:
    heard = speak(served, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000)

    assert b" 400 " in heard


@pytest.mark.parametrize(
    "path",
    [
        "/static/../settings.py",
        "/static/%2e%2e/settings.py",
        "/static/..%2fsettings.py",
        "/static/%2e%2e%2fsettings.py",
        "/static/..%5csettings.py",
        "/static/....//settings.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/",
        "/static",
        "/static/.",
        "/static/" + "a" * 5000,
    ],
)
def test_nothing_outside_the_page_folder(served: Served, path: str) -> None:
    assert get(served, path, "localhost") in (307, 404)


def test_files_of_the_page_folder(served: Served) -> None:
    style = requests.get(f"{served.url}static/style.css", timeout=20)

    assert style.content == (PAGE_FOLDER / "style.css").read_bytes()
    assert style.headers["content-type"].startswith("text/css")


@pytest.mark.parametrize("path", ["", "health", "static/style.css", "v1/models", "nothing", "metrics"])
def test_every_response_has_the_security_headers(served: Served, path: str) -> None:
    headers = requests.get(f"{served.url}{path}", timeout=20).headers

    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_the_log_has_no_message_text_no_key_and_no_rater(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start(api_key=KEY)
    secret = CHAT | {"messages": [{"role": "user", "content": "my secret"}]}
    with caplog.at_level(logging.INFO):
        server.client(api_key=KEY).chat.completions.create(**secret)
        requests.get(f"{server.url}rate/token-of-a-rater/state?question=my+secret", timeout=20)
        wait_until(lambda: "/rate/…/state 404" in caplog.text)  # written behind the answer

    assert "127.0.0.1 POST /v1/chat/completions 200" in caplog.text
    for private in ("my secret", "my+secret", KEY, "token-of-a-rater"):
        assert private not in caplog.text


def test_the_log_has_the_text_where_it_is_asked_for(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start(log_text=True)
    with caplog.at_level(logging.INFO):
        server.client().chat.completions.create(**CHAT)
        wait_until(lambda: "answered" in caplog.text)

    assert "hello there" in caplog.text


def test_a_path_stays_on_one_line_of_the_log() -> None:
    assert path_for_log("/a\nb\x1b[31m") == "/a\ufffdb\ufffd[31m"
    assert path_for_log("/rate/abc") == "/rate/…"
    assert len(path_for_log("/" * 10_000)) == 120


def test_a_failure_inside_says_nothing_about_itself(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    monkeypatch.setattr(server.pool._turns, "check_room", lambda client: 1 / 0)

    response = requests.post(f"{server.url}v1/chat/completions", json=CHAT, timeout=20)

    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    assert "division" not in response.text
    assert response.headers["x-frame-options"] == "DENY"


def test_a_port_that_is_taken_is_a_problem() -> None:
    with open_port(Settings(port=0)) as first:
        port = int(address_of(first).rstrip("/").rpartition(":")[2])
        with pytest.raises(Problem, match=f"port {port}"):
            open_port(Settings(port=port))


def test_an_address_of_another_machine_is_a_problem() -> None:
    with pytest.raises(Problem, match=r"203\.0\.113\.7"):
        open_port(Settings(host="203.0.113.7", port=0, api_key=KEY))


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_on_the_line_does_no_harm(served: Served, noise: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        heard = connection.recv(65536)

    assert not heard.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5"))
    assert requests.get(f"{served.url}health", timeout=20).status_code == 200


def test_page_files_carry_nothing_inline() -> None:
    for page in Path(PAGE_FOLDER).glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script>" not in text
        assert "style=" not in text
