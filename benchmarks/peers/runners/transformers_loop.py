"""A plain Transformers loop reads and writes: what one would write without potstill.

In:  a job: `collect` (read every text, keep the likeliest tokens of its answer) or `write` (`model.generate`).
Out: steps with seconds and tokens; what lies on the disk; times of every token.
Does not know: potstill.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from telling import Job, Teller, peak_mb, serve, versions
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, logging
from transformers.generation.streamers import BaseStreamer

TOP = 128
"""Likeliest tokens kept of a position: as many as DistillKit recommends."""


def main(job: Job, teller: Teller) -> None:
    """One of the two."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    teller.tell("versions", **versions("torch", "transformers"))
    {"collect": collect, "write": write}[job["do"]](job, teller)


def load(folder: str, dtype: str) -> PreTrainedModel:
    """The model, ready to read."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.eval()


@torch.inference_mode()
def collect(job: Job, teller: Teller) -> None:
    """Padded batches of neighbours by length, logits, log-softmax, top-k of the answer: one file at the end."""
    from safetensors.torch import save_file

    model = load(job["teacher"], job["dtype"])
    texts = [Path(path).read_text(encoding="utf-8") for path in job["texts"].values()]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]
    rows.sort(key=lambda row: -len(row["ids"]))
    teller.tell("settings", kept=f"top-{TOP}: int32 and float16", dtype=job["dtype"])
    kept, done = [], 0
    teller.start()
    for batch in batches(rows, job["batch_tokens"]):
        longest = len(batch[0]["ids"])
        ids = torch.tensor([row["ids"] + [0] * (longest - len(row["ids"])) for row in batch])
        mask = torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in batch])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for place, row in enumerate(batch):
            answer = logits[place, row["start"] - 1 : len(row["ids"]) - 1]
            kept.append(answer.float().log_softmax(dim=-1).topk(min(TOP, answer.shape[1]), dim=-1))
            done += len(row["ids"])
        teller.step(done)
    path = Path(job["store"]) / "top.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = torch.cat([one.indices for one in kept]).int()
    save_file({"ids": tokens, "log_probabilities": torch.cat([one.values for one in kept]).half()}, path)
    teller.step(done)
    teller.tell("disk", bytes_per_token=path.stat().st_size / len(tokens))


def batches(rows: list[dict[str, Any]], batch_tokens: int) -> list[list[dict[str, Any]]]:
    """Neighbours by length, longest first, as many as fit into so many positions."""
    found: list[list[dict[str, Any]]] = []
    for row in rows:
        if found and len(found[-1][0]["ids"]) * (len(found[-1]) + 1) <= batch_tokens:
            found[-1].append(row)
        else:
            found.append([row])
    return found


class Arrivals(BaseStreamer):
    """When each new token came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """The prompt first, then token after token."""
        if self.prompt_seen:
            self.times.append(time.perf_counter())
        self.prompt_seen = True

    def end(self) -> None:
        """The answer is whole."""


@torch.inference_mode()
def write(job: Job, teller: Teller) -> None:
    """Every question by itself, greedily, with a cache, always `new_tokens` long."""
    begin = time.perf_counter()
    model = load(job["student"], job["dtype"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job["student"])
    load_s = time.perf_counter() - begin
    length = job["new_tokens"]
    teller.tell("settings", dtype=job["dtype"], threads=f"{torch.get_num_threads()}", cache="dynamic")
    first_token_ms, decode_tok_s = [], []
    for number, messages in enumerate([job["conversations"][0], *job["conversations"]]):
        started, arrivals = time.perf_counter(), Arrivals()
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        model.generate(
            ids["input_ids"],
            attention_mask=ids["attention_mask"],
            do_sample=False,
            min_new_tokens=length,
            max_new_tokens=length,
            streamer=arrivals,
        )
        if number:  # the first time only warms up
            first_token_ms.append(1000 * (arrivals.times[0] - started))
            decode_tok_s.append((length - 1) / (arrivals.times[-1] - arrivals.times[0]))
    told = {"load_s": load_s, "first_token_ms": first_token_ms, "decode_tok_s": decode_tok_s, "peak_mb": peak_mb()}
    teller.tell("written", **told)


if __name__ == "__main__":
    serve(main)
