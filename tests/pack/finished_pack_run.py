"""A small finished run, and a web server that can be made to fail.

In:  a tiny checkpoint.
Out: a `Run` with all that a pack is made of; folders behind an address.
Does not know: packs.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from potstill.models.gguf import write_gguf
from potstill.progress import Silent
from potstill.recipe import Recipe
from potstill.run import Run, write_json

TYPES = ("F16", "Q8_0", "Q4_0")
TEACHER = {
    **{"general.license": "Apache-2.0", "teacher": "qwen2.5-coder-0.5b-instruct", "teacher_sha256": "1d96" * 16},
    "fingerprint": "e" * 16,
}


def reading(value: float | None, low: float | None, high: float | None, n: int, unit: str) -> dict[str, Any]:
    return {"value": value, "n": n, "low": low, "high": high, "unit": unit}


SCORECARD = {
    "speed.decode_tok_s": {"teacher": reading(29.1, 28.0, 30.2, 3, "tokens/s"),
                           "student": reading(131.4, 126.0, 136.0, 3, "tokens/s")},
    "size.file_mb": {"teacher": reading(491.4, None, None, 1, "MB"), "student": reading(0.3, None, None, 1, "MB"),
                     "student-Q8_0": reading(0.5, None, None, 1, "MB")},
    "fidelity.top1": {"teacher": reading(1.0, 1.0, 1.0, 40, "share"), "student": reading(0.523, 0.5, 0.54, 40, "share"),
                      "student-Q8_0": reading(0.531, 0.51, 0.55, 40, "share")},
    "code.passes": {"teacher": reading(0.58, 0.44, 0.71, 50, "share"),
                    "student": reading(0.08, 0.03, 0.19, 50, "share")},
    "commonsense.error": {"teacher": reading(0.31, 0.25, 0.38, 200, "share"),
                          "student": reading(0.36, 0.3, 0.43, 200, "share")},
    "naturalness.mean": {name: reading(None, None, None, 0, "score") for name in ("teacher", "student")},
}  # fmt: skip
GATES = {"code.passes": ">= teacher - 0.06"}
"""Missed by that scorecard."""


def build_run(folder: Path, checkpoint: Path, types: tuple[str, ...] = TYPES, **metadata: str) -> Run:
    """A run whose export holds the tiny model, evaluated by hand."""
    recipe = Recipe.model_validate({
        "name": "tiny rice", "export": {"types": types, "ship": types[-1]},
        "gates": GATES, "prompts": {"files": [{"path": "/home/somebody/secret/questions.jsonl"}]},
    })  # fmt: skip
    run = Run(folder, recipe, home=folder / "home")
    run.keep_recipe()
    (folder / "export").mkdir()
    entries = []
    for kind in types:
        path = folder / "export" / f"tiny rice-{kind}.gguf"
        write_gguf(checkpoint, path, kind, metadata=TEACHER | metadata, progress=Silent())
        entries.append({"name": path.name, "type": kind, "megabytes": path.stat().st_size / 1e6})
    write_json(folder / "export" / "report.json", {"files": entries})
    for stage, report in (("evaluate", None), ("prune", {"parameters": 149_837_696})):
        (folder / stage).mkdir()
        if report:
            write_json(folder / stage / "report.json", report)
    write_json(folder / "evaluate" / "scorecard.json", SCORECARD)
    stages = {
        name: {"fingerprint": name[:1] * 16, "finished": "2026-11-24T08:20:11+00:00", "seconds": 9.6,
               "content": name, "inputs": read, "versions": {"potstill": "0.1.0"}, "machine": "x86_64, 2 cores"}
        for name, read in (("export", {"distill": "one"}), ("evaluate", {"distill": "one", "export": "export"}))
    }  # fmt: skip
    write_json(folder / "manifest.json", {"recipe": recipe.name, "stages": stages})
    return run


class WebFolders(ThreadingHTTPServer):
    """Serves what lies in `root`; `asked` is what it was asked for as (name, range)."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.root = root
        self.asked: list[tuple[str, str | None]] = []
        self.knows_ranges = True
        self.breaks: list[int] = []
        """After how many bytes of a model the connection breaks, one number an answer."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: WebFolders

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path.rpartition("/")[2], wanted))
        path = self.server.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.knows_ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        rest = content[start:]
        if path.suffix == ".gguf" and self.server.breaks:
            rest = rest[: self.server.breaks.pop(0)]
        self.wfile.write(rest)
