"""What a server counts about itself, in Prometheus' text format.

In:  events: a request ended, a piece of text came, an answer was finished.
Out: the text of `/metrics`.
Does not know: what was said; clients, keys and rater links are in no label.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from potstill.machine import resident_memory_mb

FIRST_TOKEN_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
GAP_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0)
WAIT_S = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters of one server, in a registry of their own: two servers in a process do not mix."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("potstill_requests", "Requests ended.", ["path", "status"], registry=registry)
        self._tokens = Counter("potstill_tokens", "Tokens of finished answers.", ["model", "kind"], registry=registry)
        self._answers = Counter("potstill_answers", "Answers by how they ended.", ["model", "end"], registry=registry)
        self._first = Histogram(
            "potstill_first_token_seconds",
            "From a request's turn to its first text.",
            ["model"],
            registry=registry,
            buckets=FIRST_TOKEN_S,
        )
        self._gap = Histogram(
            "potstill_gap_seconds", "Between two pieces of text.", ["model"], registry=registry, buckets=GAP_S
        )
        self._wait = Histogram("potstill_wait_seconds", "Spent in the queue.", registry=registry, buckets=WAIT_S)
        self._watch("potstill_resident_memory_bytes", "Memory of this process.", lambda: 1e6 * resident_memory_mb())

    def watch_queue(self, waiting: Callable[[], float], running: Callable[[], float]) -> None:
        """Show these whenever somebody looks."""
        self._watch("potstill_queue_waiting", "Requests that wait for a turn or a model's file.", waiting)
        self._watch("potstill_answers_running", "Answers that are being written.", running)

    def watch_models(self, loaded: Callable[[], float]) -> None:
        """Show this whenever somebody looks."""
        self._watch("potstill_models_loaded", "Models in memory.", loaded)

    def request_ended(self, path: str, status: int) -> None:
        """`path` is the route's template, so that there are few of them."""
        self._requests.labels(path, str(status)).inc()

    def waited(self, seconds: float) -> None:
        """A request got its turn."""
        self._wait.observe(seconds)

    def first_text(self, model: str, seconds: float) -> None:
        """An answer began."""
        self._first.labels(model).observe(seconds)

    def gap(self, model: str, seconds: float) -> None:
        """Another piece of text came."""
        self._gap.labels(model).observe(seconds)

    def finished(self, model: str, prompt_tokens: int, tokens: int, finish: str) -> None:
        """An answer was written to its end."""
        self._tokens.labels(model, "prompt").inc(prompt_tokens)
        self._tokens.labels(model, "completion").inc(tokens)
        self._answers.labels(model, finish).inc()

    def abandoned(self, model: str) -> None:
        """An answer was stopped: its client went, or the server ends."""
        self._answers.labels(model, "stopped").inc()

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)

    def _watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        Gauge(name, meaning, registry=self._registry).set_function(value)
