"""The student's files: any type, mix or guarded type, written and proved.

In:  a run whose student is trained, names of types as the recipe has them.
Out: GGUFs (and adapters) in a folder, one entry a file for the stage's report.
Does not know: which of them is best.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from potstill.export.guard import add_guard, common_symbols, read_tokens, write_tokens
from potstill.export.proof import prove
from potstill.models.anatomy import body, head_weight
from potstill.models.architecture import EMBEDDING, HEAD
from potstill.models.checkpoint import read_header
from potstill.models.examples import evenly
from potstill.models.gguf import write_gguf
from potstill.models.gguf_adapter import ENDING, adapter_beside, adapter_path, write_lora_adapter
from potstill.models.lora import Lora, read_lora
from potstill.models.mix import Mix, mix_of
from potstill.models.moments import second_moments
from potstill.models.reading import BATCH_TOKENS
from potstill.models.teacher import find_teacher, load_model, load_tokenizer
from potstill.problem import Problem
from potstill.recipe.product import CHOSEN, GUARD
from potstill.run import Run, digest, read_json
from potstill.signals.store import SignalStore

EXACT = "F16"
TOKENS_FILE = "guard-tokens.txt"


class StudentFiles:
    """One student, and the folder its files go to. What is there already is proved again, not written again."""

    def __init__(self, run: Run, folder: Path, stamp: str) -> None:
        """Find the student. `stamp`: what made the files, for their headers. Raises: Problem where there is none."""
        self.run, self.folder, self.section = run, folder, run.recipe.export
        self.checkpoint = run.stage("distill") / "student"
        self.examples = SignalStore(run.stage("signals"), "train").examples
        teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
        self._metadata = {
            "general.name": f"{run.recipe.name} student of {teacher.name}",
            "general.license": teacher.licence,
            "fingerprint": stamp,
            "teacher": teacher.name,
            "teacher_sha256": teacher.sha256,
            "student_fingerprint": read_header(self.checkpoint).get("potstill.fingerprint", ""),
        }

    @cached_property
    def moments(self) -> Mapping[str, Tensor]:
        """How the inputs of its matrices spread on what it was trained on; empty where the recipe does not ask."""
        if not self.section.importance_tokens:
            return {}
        trained_in = read_json(self.run.stage("distill") / "report.json").get("dtype")
        model = load_model(self.checkpoint, torch.bfloat16 if trained_in == "bfloat16" else torch.float32)
        sequences = [example.ids for example in evenly(self.examples, self.section.importance_tokens)]
        matrices = {name for name, weight in model.named_parameters() if weight.dim() == 2} | {HEAD}
        with self.run.progress.task("what the matrices read", 1.0, "share") as task:
            found = second_moments(
                model,
                sequences,
                BATCH_TOKENS,
                matrices,
                lambda ids: body(model)(input_ids=ids, use_cache=False).last_hidden_state,
                task.advance,
            )
        return {**found, EMBEDDING: found[HEAD]} if model.config.tie_word_embeddings else found

    @cached_property
    def guarded(self) -> list[int]:
        """The tokens to guard; their list is left beside the files."""
        tokenizer = load_tokenizer(self.checkpoint)
        given = self.section.guard_tokens
        rows = (
            read_tokens(given, tokenizer)
            if given
            else common_symbols(tokenizer, self.examples, self.section.guard_most)
        )
        if not rows:
            raise Problem(
                "no training answer holds a symbol that a guard could guard", "Take -guard out of export.types."
            )
        write_tokens(self.folder / TOKENS_FILE, tokenizer, rows)
        return rows

    @cached_property
    def lora(self) -> Lora | None:
        """The adapter trained on the student; None where the recipe wants none."""
        return read_lora(self.run.stage("distill") / "adapter") if self.run.recipe.distill.adapter.category else None

    def path(self, kind: str) -> Path:
        """The file of a type."""
        return self.folder / f"{self.run.recipe.name}-{kind}.gguf"

    def mix(self, kind: str) -> str | Mix:
        """What `models` knows a type of the recipe as."""
        return mix_of(kind.removesuffix(GUARD), self.section.mixes)

    def write(self, kind: str) -> dict[str, Any]:
        """Write and prove the file of one type; its entry in the report. Raises: Problem where the proof fails."""
        path = self.path(kind)
        guarded = kind.endswith(GUARD)
        if not path.exists():
            self._write(kind, path, guarded)
        if guarded and adapter_beside(path) is None:
            head = head_weight(load_model(self.checkpoint, torch.float32)).detach().numpy()
            add_guard(path, self.guarded, head)
        difference = prove(self.checkpoint, path, self.examples, self.section.tolerance if kind == EXACT else None)
        adapter = adapter_beside(path)
        entry: dict[str, Any] = {
            "name": path.name,
            "type": kind,
            "megabytes": (path.stat().st_size + (adapter.stat().st_size if adapter else 0)) / 1e6,
            "largest_difference": difference.largest,
            "kl": difference.kl,
        }
        self.run.progress.say(
            f"{path.name}: {entry['megabytes']:.0f} MB, {difference.kl:.2g} nats from the float student, "
            f"logits within {difference.largest:.3g}"
        )
        if adapter is not None:
            entry |= {"adapter": adapter.name, "guarded": len(self.guarded)}
        return entry if self.lora is None else {**entry, "named": self._write_named(path, kind, self.lora)}

    def write_chosen(self, name: str) -> dict[str, Any]:
        """The file of a mix that was chosen; its type in the report is `chosen`, its name says what it is."""
        return {**self.write(name), "type": CHOSEN, "mix": name}

    def _write_named(self, path: Path, kind: str, lora: Lora) -> dict[str, Any]:
        """The trained adapter beside a file, proved with it; the same beside all, and on disk once if it can be."""
        category = str(self.run.recipe.distill.adapter.category)
        adapter = adapter_path(path, category)
        if not adapter.exists():
            twin = next(self.folder.glob(f"*.{category}{ENDING}"), None)
            if twin is None:
                name = f"{self._metadata['general.name']}: {category} adapter"
                write_lora_adapter(adapter, lora, self.checkpoint, {**self._metadata, "general.name": name})
            else:
                link(twin, adapter)
        own = [example for example in self.examples if example.category == category] or self.examples
        tolerance = self.section.tolerance if kind == EXACT else None
        difference = prove(self.checkpoint, adapter, own, tolerance, lora)
        megabytes = adapter.stat().st_size / 1e6
        self.run.progress.say(f"{adapter.name}: {megabytes:.1f} MB, {difference.kl:.2g} nats from the merged student")
        return {"name": adapter.name, "category": category, "megabytes": megabytes, "kl": difference.kl}

    @property
    def _finished(self) -> str | None:
        """The type whose own levels training has left the weights on: they are written as they are."""
        finish = self.run.recipe.distill.finish
        return finish.type if finish.share else None

    def _write(self, kind: str, path: Path, guarded: bool) -> None:
        # The guarded rows are part of the header, so that a file with another guard has another hash.
        metadata = {**self._metadata, **({"guard": digest(self.guarded)} if guarded else {})}
        write_gguf(
            self.checkpoint,
            path,
            self.mix(kind),
            metadata=metadata,
            progress=self.run.progress,
            moments={} if kind.removesuffix(GUARD) in (EXACT, self._finished) else self.moments,
            untied=guarded,
        )


def link(file: Path, name: Path) -> None:
    """Give a file a second name; where the disk knows no such thing, a copy."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
