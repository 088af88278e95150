"""llama.cpp's own server answers one question: start, load, warm up, listen, write the first piece.

In:  arguments: `binding` or the path of a llama-server; a GGUF; the question.
Out: the first piece of the answer on stdout; then it leaves.
Does not know: potstill. Everything is left as llama.cpp likes it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

PATIENCE = 0.005
"""Seconds between two looks at whether the server listens."""


def main() -> None:
    """Start the one or the other, ask, leave without tidying up: what comes after the first piece is not measured."""
    kind, gguf, question = sys.argv[1:]
    if kind == "binding":
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path, parameters.verbosity = gguf, -1
        server = xllamacpp.Server(parameters)  # returns when the model is loaded and the port is open
        print(first_piece(server.listening_address, question), flush=True)
        os._exit(0)
    address = f"http://127.0.0.1:{free_port()}"
    command = [kind, "--model", gguf, "--port", address.rpartition(":")[2], "--log-disable"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(address, process)
        print(first_piece(address, question), flush=True)
    finally:
        process.kill()


def first_piece(address: str, question: str) -> str:
    """The first text of the answer, as it comes over HTTP."""
    body = {"messages": [{"role": "user", "content": question}], "stream": True, "max_tokens": 64}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                text = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if text:
                    return str(text)
    raise SystemExit("the server wrote nothing")


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until the server says that its model is loaded."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(PATIENCE)
    raise SystemExit(f"llama-server left with exit code {process.returncode}")


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    main()
