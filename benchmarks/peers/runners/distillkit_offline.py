"""DistillKit trains offline: from compressed top-128 log-probabilities that were captured before.

In:  a job: `collect` (the teacher reads, DistillKit's compressor packs) or `train`.
Out: steps, bytes on the disk, the trained checkpoint.
Does not know: potstill. Runs in DistillKit's own Python.

Its own capture needs vLLM; here a Transformers loop reads, and its `LogprobCompressor` packs what it read, as its
README recommends for new captures. Its command line trains only on rows of one length, so its trainer is called with
a collator that pads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import torch
from datasets import Dataset
from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor
from distillkit.configuration import DistillationRunConfig
from distillkit.sample_common import compressed_logit_schema
from distillkit.signals import OfflineSignalSource
from distillkit.trainer import DistillationTrainer
from hf_training import IGNORED, Pacing, Row, collate, common_arguments, read_rows, run_to_the_end, told
from pyarrow import parquet
from telling import Job, Teller, serve, versions
from torch.utils.data import Sampler, SequentialSampler
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, logging
from trl import SFTConfig

RECOMMENDED = {
    "k": 128,
    "exact_k": 16,
    "exact_dtype": "bfloat16",
    "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"],
    "term_dtype": "float32",
    "residual_bins": [],
    "delta_encoding": False,
    "error_diffusion": False,
}
"""Its README's configuration for new captures."""
PACKED = ("compressed_logprobs", "bytepacked_indices")
CAPTURED = compressed_logit_schema()
"""Columns and types of its sampler's files."""


def main(job: Job, teller: Teller) -> None:
    """One of the two."""
    logging.set_verbosity_error()
    teller.tell("versions", **versions("distillkit", "trl", "torch", "transformers"))
    {"collect": capture, "train": train}[job["do"]](job, teller)


def compression(vocabulary: int) -> dict[str, Any]:
    """The recommended compression over so many tokens; a vocabulary smaller than k keeps all of it."""
    k = min(RECOMMENDED["k"], vocabulary)
    return {**RECOMMENDED, "d": vocabulary, "k": k, "exact_k": min(RECOMMENDED["exact_k"], k)}


@torch.inference_mode()
def capture(job: Job, teller: Teller) -> None:
    """Packed bytes of every position, in the columns of DistillKit's own sampler; one answer at a time."""
    model = AutoModelForCausalLM.from_pretrained(job["teacher"], dtype=getattr(torch, job["dtype"])).eval()
    compressor = LogprobCompressor(DistributionQuantizationConfig(**compression(model.config.vocab_size)))
    teller.tell("settings", kept="top-128, its recommended compression", dtype=job["dtype"])
    texts = [Path(path).read_text(encoding="utf-8") for path in job["texts"].values()]
    columns: dict[str, list[Any]] = {name: [] for name in CAPTURED.names}
    done = 0
    teller.start()
    for row in (json.loads(line) for text in texts for line in text.splitlines()):
        logits = model(input_ids=torch.tensor([row["ids"]]), use_cache=False).logits
        packed = compressor.compress(logits.float().log_softmax(dim=-1))
        columns["input_ids"].append(row["ids"])
        for name in PACKED:
            columns[name].append(packed[name][0].tolist())
        done += len(row["ids"])
        teller.step(done)
    path = Path(job["store"]) / "packed.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns, schema=CAPTURED), path)
    teller.step(done)
    teller.tell("disk", bytes_per_token=path.stat().st_size / done)


class PackedBatches:
    """Collates rows, and looks up what was captured of them.

    DistillKit masks position t by label t and compares what is said of token t + 1 there: labels are shifted here.
    A row's last signal fills its padding, where nothing is compared.
    """

    def __init__(self, path: Path) -> None:
        self.captured = Dataset.from_parquet(str(path))
        self.places = {tuple(ids): place for place, ids in enumerate(self.captured["input_ids"])}

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """The batch of `collate`, and [B, T, bytes] for each packed column."""
        batch = collate(rows)
        batch["labels"] = torch.cat([batch["labels"][:, 1:], torch.full((len(rows), 1), IGNORED)], dim=1)
        longest = batch["input_ids"].shape[1]
        signals = [self.captured[self.places[tuple(row["ids"])]] for row in rows]
        for name in PACKED:
            filled = [signal[name] + [signal[name][-1]] * (longest - len(signal[name])) for signal in signals]
            batch[name] = torch.tensor(filled, dtype=torch.uint8)
        return batch


class InOrder(DistillationTrainer):
    """Its trainer, which takes the rows one after the other."""

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)


def train(job: Job, teller: Teller) -> None:
    """Forward KL over the stored tokens, T = 1; save where the job says so."""
    student = AutoModelForCausalLM.from_pretrained(job["student"], dtype=torch.float32)
    vocabulary = student.config.vocab_size
    config = DistillationRunConfig.model_validate(
        {
            "model": job["student"],
            "dataset": {"train_dataset": {"disk_path": job["store"]}, "prepacked": True},
            "teacher": {"kind": "dataset", "logprob_compressor": compression(vocabulary)},
            "sequence_length": job["max_length"],
            "output_path": job["scratch"],
            "use_flash_attention": False,
            "loss_functions": [
                {"function": "kl", "weight": 1.0, "temperature": 1.0, "missing_probability_handling": "zero"}
            ],
        }
    )
    teller.tell("settings", **told(job, "KL over the top 128, rest taken as 0, T = 1, answers only", "kept top-128"))
    trainer = InOrder(
        model=student,
        config=config,
        signal_source=OfflineSignalSource(LogprobCompressor(config.teacher.logprob_compressor), vocabulary),
        true_vocab_size=vocabulary,
        train_dataset=Dataset.from_list(read_rows(job)),
        args=SFTConfig(
            **common_arguments(job),
            max_length=job["max_length"],
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        data_collator=PackedBatches(Path(job["store"]) / "packed.parquet"),
        processing_class=PreTrainedTokenizerFast.from_pretrained(job["student"]),
        callbacks=[Pacing(job, teller, student)],
    )
    run_to_the_end(trainer, job)


if __name__ == "__main__":
    serve(main)
