"""Many clients, few slots, some of them vanish: does the server keep its head?

In:  a GGUF or a run folder.
Out: answers accepted, refused and abandoned, p95 of the first token, tokens a second, memory before and after.
Does not know: how the server works; it is a process of its own, and clients are real sockets.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

QUESTIONS = (
    "请用三句话介绍一下怎样安排周末的家务。",
    "帮我写一条微信，告诉同事明天上午的会改到下午三点。",
    "用 Python 写一个函数，统计一段文字里每个词出现的次数。",
    "阳台上的薄荷叶子发黄了，可能是什么原因？",
)
SERVE = """
import sys
from pathlib import Path
from potstill.serve import Settings, serve
serve(Path(sys.argv[1]), Settings.model_validate_json(sys.argv[2]), say=lambda line: print(line, flush=True))
"""
EXAMPLE = "example:  python benchmarks/serve_load.py runs/demo --clients 50 --slots 2 --vanishing 0.2"


@dataclass(frozen=True)
class Outcome:
    """What became of one request."""

    kind: str
    """whole: every piece to the end. refused: 503. vanished: the client went, on purpose."""
    first_text_s: float = 0.0
    """From sending the request to the first text, the queue included."""
    seconds: float = 0.0
    tokens: int = 0
    retry_after_s: int = 0


def run_load(
    url: str, model: str, *, clients: int, requests_each: int, vanishing: float, chat: Mapping[str, Any] | None = None
) -> list[Outcome]:
    """All clients at once, each asking several times in a row, whatever it gets.

    Args:
        url: the server's.
        model: whom to ask.
        clients: threads, each with its own connections.
        requests_each: one after the other.
        vanishing: the share of requests that are left after the second piece of text.
        chat: what to ask; by default the questions above in turn.

    Raises: AssertionError for anything but a whole answer, a 503 with Retry-After, or a client that went.
    """
    outcomes: list[Outcome] = []
    failures: list[BaseException] = []
    every = round(1 / vanishing) if vanishing else 0

    def client(number: int) -> None:
        try:
            for turn in range(requests_each):
                place = number * requests_each + turn
                question = QUESTIONS[place % len(QUESTIONS)]
                body = {"messages": [{"role": "user", "content": question}], "max_tokens": 128, **(chat or {})}
                leaves = bool(every) and place % every == 0
                outcomes.append(ask(url, {**body, "model": model, "seed": place}, leaves=leaves))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return outcomes


def ask(url: str, body: Mapping[str, Any], *, leaves: bool) -> Outcome:
    """One streamed answer, or what came instead."""
    begun = time.perf_counter()
    request = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with requests.post(f"{url}v1/chat/completions", json=request, stream=True, timeout=600) as response:
        if response.status_code == 503:
            return Outcome("refused", retry_after_s=int(response.headers["retry-after"]))
        assert response.status_code == 200, response.text
        first_s, pieces, last = 0.0, 0, ""
        for line in response.raw:  # as they come; iter_lines would go byte by byte
            line = line.strip()
            last = line.decode().removeprefix("data: ") or last
            if '"content":"' in last and line:
                pieces += 1
                first_s = first_s or (time.perf_counter() - begun if pieces == 2 else 0.0)  # the first is the opening
                if leaves and pieces == 3:
                    return Outcome("vanished")
            if '"usage"' in last and line:
                tokens = json.loads(last)["usage"]["completion_tokens"]
    assert last == "[DONE]", f"the answer broke off: {last}"
    return Outcome("whole", first_s, time.perf_counter() - begun, tokens)


def report(outcomes: list[Outcome], seconds: float) -> str:
    """The figures, one a line."""
    whole = [outcome for outcome in outcomes if outcome.kind == "whole"]
    firsts = [outcome.first_text_s for outcome in whole]
    p95 = statistics.quantiles(firsts, n=20)[-1] if len(firsts) > 1 else float("nan")
    tokens = sum(outcome.tokens for outcome in whole)
    return "\n".join(
        [
            f"requests          {len(outcomes)} in {seconds:.1f} s",
            f"answered whole    {len(whole)}",
            f"refused (503)     {sum(outcome.kind == 'refused' for outcome in outcomes)}",
            f"left in midstream {sum(outcome.kind == 'vanished' for outcome in outcomes)}",
            f"first token, p95  {p95:.2f} s, the queue included (median {statistics.median(firsts):.2f} s)",
            f"tokens a second   {tokens / seconds:.1f}, whole answers only",
        ]
    )


def resident_mb(url: str) -> float:
    """What the server says of its own memory."""
    text = requests.get(f"{url}metrics", timeout=60).text
    found = re.search(r"^potstill_resident_memory_bytes (\S+)", text, re.M)
    assert found
    return float(found[1]) / 1e6


def still_running(url: str) -> int:
    """Turns that are taken, and requests that wait."""
    text = requests.get(f"{url}metrics", timeout=60).text
    return sum(
        int(float(count)) for count in re.findall(r"^potstill_(?:answers_running|queue_waiting) (\S+)", text, re.M)
    )


def main() -> None:
    options = arguments()
    settings = {"port": 0, "slots": options.slots, "queue": options.queue}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(options.model), json.dumps(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        if not line:
            sys.exit(f"the server did not start; try: potstill serve {options.model}")
        url = line.split()[2]
        model = requests.get(f"{url}v1/models", timeout=60).json()["data"][0]["id"]
        load = {"requests_each": options.requests, "vanishing": options.vanishing}
        run_load(url, model, clients=options.slots, **load)  # loads the model, and lets every slot be used once
        before = resident_mb(url)
        begun = time.perf_counter()
        outcomes = run_load(url, model, clients=options.clients, **load)
        print(report(outcomes, time.perf_counter() - begun))
        while still_running(url):
            time.sleep(0.05)
        print(f"server's memory   {before:.0f} MB before, {resident_mb(url):.0f} MB after; every slot is free again")
    finally:
        server.terminate()
        server.wait()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a run folder, or a GGUF")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2, help="of each client, one after the other")
    parser.add_argument("--vanishing", type=float, default=0.2, help="share of requests that are left in midstream")
    return parser.parse_args()


if __name__ == "__main__":
    main()
