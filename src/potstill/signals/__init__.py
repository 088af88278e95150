"""Stage `signals`: the teacher reads every answer, and what it thought is kept.

In:  `answers/`, `vocab/`, the teacher.
Out: `signals/`: shards of both splits, the teacher's head over the kept tokens, `index.json`, `report.json`.
Does not know: the student.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.answers import Answer, answers_of
from potstill.engines import LOCAL, Worker, results
from potstill.problem import Problem
from potstill.run import DTYPE, Run, begun_dtype, write_json
from potstill.storage import storage_of
from potstill.vocab.binding import FILE as BINDING
from potstill.vocab.binding import Binding
from potstill.vocab.map import MAP, VocabMap

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from potstill.models.examples import Example
    from potstill.recipe import Recipe
    from potstill.signals.collect import Reading, Shard, Source
    from potstill.signals.store import StoreFormat

__all__ = ["teach", "verify"]

SPLITS = ("train", "held-out")
BEGUN = "begun"
"""The name under which storage keeps the number format that the reading began in."""


def teach(run: Run, folder: Path, engine: str = LOCAL) -> None:
    """Read all answers, shard by shard, here (`local`) or over a cluster (`ray`)."""
    reading = _open_reading(run, folder)
    reading.exchange()
    examples, source = reading.examples, reading.source
    missing = [shard for shard in reading.shards() if not reading.path(shard).exists()]
    total = sum(map(reading.tokens, reading.shards()))
    fresh, started = len(missing) == len(reading.shards()), time.monotonic()
    elsewhere = Elsewhere(run.folder.resolve(), run.recipe, run.home.resolve(), folder.resolve(), source.form.teacher)
    with run.progress.task("the teacher reads", total, "tokens") as task:
        task.resume(total - sum(map(reading.tokens, missing)))
        for tokens in results(engine, missing, reading.write, elsewhere):
            task.advance(tokens)
    shards = {split: reading.names(split) for split in SPLITS}
    if lost := [name for names in shards.values() for name in names if not (folder / name).exists()]:
        raise Problem(f"{len(lost)} shards are not in {folder}", "Workers must see the same run folder. Run again.")
    report = _report(folder, examples, shards)
    # After a resume the clock saw only a part of the reading.
    report["tokens_per_second"] = total / (time.monotonic() - started) if fresh else 0.0
    write_json(folder / "report.json", report)
    formats = {split: asdict(source.form_of(split)) for split in SPLITS}
    write_json(folder / "index.json", {"formats": formats, "shards": shards})
    run.progress.say(
        f"signals: {report['answer_tokens']:,} answer tokens, {report['bytes_per_token']:.0f} bytes each, "
        f"{report['megabytes']:.0f} MB"
    )


@dataclass(frozen=True)
class Elsewhere:
    """Makes another process ready to read shards of this run; it keeps to the dtype that this store was begun with.

    Args:
        run, home, folder: of the run, of its teachers and of the store: the same paths on every machine.
        recipe: what is asked for. teacher: SHA-256 of the one that has to be read.
    """

    run: Path
    recipe: Recipe
    home: Path
    folder: Path
    teacher: str

    @contextmanager
    def __call__(self) -> Iterator[Worker[Shard, int]]:
        """A worker. Raises: Problem where this machine's teacher is another one, or there is no such run here."""
        reading = _open_reading(Run(self.run, self.recipe, self.home), self.folder)
        if reading.source.form.teacher != self.teacher:
            raise Problem("a worker has another teacher of this name", "Share POTSTILL_HOME, or remove that teacher.")
        yield reading.write


def _open_reading(run: Run, folder: Path) -> Reading:
    from potstill.signals.collect import Reading

    storage = storage_of(run, "signals")
    # Whoever goes on reads in the number format in which the first began.
    if storage and not (folder / DTYPE).exists():
        storage.fetch([BEGUN], folder)
    source = _open_source(run, folder)
    if storage and BEGUN not in storage.names():
        storage.put(BEGUN, folder, [folder / DTYPE])
    examples, as_read = _examples(run, source)
    return Reading(source, examples, as_read, run.recipe.signals.shard_answers, folder, storage)


def verify(run: Run, positions: int) -> dict[str, float]:
    """Read random training answers again and compare them with the store.

    Args:
        positions: answer positions to compare, at least (whole answers are read).

    Returns: positions compared; mean and largest KL in nats, of the stored against the fresh distribution, and the
    temperature at which: 1, but the first that topk signals hold a rest for.
    """
    import numpy as np
    import torch

    from potstill.models.reading import LAST, read_states
    from potstill.signals.bound import BoundRows
    from potstill.signals.formats import HiddenRows
    from potstill.signals.store import SignalStore

    store = SignalStore(run.stage("signals"), "train")
    source = _open_source(run, run.stage("signals"))
    order = [int(index) for index in np.random.default_rng(run.recipe.seed).permutation(len(store))]
    ends = np.cumsum([store.examples[index].rows for index in order])
    chosen = order[: int(np.searchsorted(ends, positions)) + 1]
    as_read = _examples(run, source)[1]["train"]
    examples = [as_read[index] for index in chosen]
    temperature = 1.0 if store.form.kind != "topk" else store.form.temperatures[0]
    divergences = []
    for place, states in read_states(source.model, examples, source.teacher_ids, (), source.batch_tokens):
        stored = store.rows_of([chosen[place]])
        if isinstance(stored, BoundRows):  # what was read is compared, whatever it means to the student
            stored = HiddenRows(stored.hidden, store.head)
        fresh = HiddenRows(states[LAST], store.head)
        scaled = stored.divergence(fresh.logits(slice(None)), slice(None), temperature)
        divergences.append(scaled / temperature**2)
    everything = torch.cat(divergences)
    return {
        "positions": float(len(everything)),
        "mean_kl": float(everything.mean()),
        "largest_kl": float(everything.max()),
        "temperature": temperature,
    }


Examples = dict[str, list["Example"]]


def _examples(run: Run, source: Source) -> tuple[Examples, Examples]:
    """Split → examples in the student's ids, and the same as the teacher reads them: the same ones unless `bound`."""
    answers = answers_of(run)
    kept, as_read = _paired(run, source, answers) if source.form.kind == "bound" else _shared(run, answers)
    if not kept["train"]:
        raise Problem("no training answer fits into signals.context", "Raise signals.context or shorten the prompts.")
    lost = len(answers) - sum(map(len, kept.values()))
    if lost:
        run.progress.say(f"signals: {lost} answers left out, their question fills signals.context")
    return kept, as_read


def _shared(run: Run, answers: Sequence[Answer]) -> tuple[Examples, Examples]:
    from potstill.answers.tokenize import tokenize
    from potstill.models.teacher import load_tokenizer

    tokenizer = load_tokenizer(run.stage("vocab"))
    found = {
        split: tokenize(tokenizer, [a for a in answers if a.prompt.split == split], run.recipe.signals.context)
        for split in SPLITS
    }
    return found, found


def _paired(run: Run, source: Source, answers: Sequence[Answer]) -> tuple[Examples, Examples]:
    from potstill.models.teacher import find_teacher
    from potstill.vocab.foreign import speakers
    from potstill.vocab.pairs import pair

    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    student, master = speakers(run, teacher.checkpoint, len(source.head))
    pairs = {
        split: pair(student, master, [a for a in answers if a.prompt.split == split], run.recipe.signals.context)
        for split in SPLITS
    }
    return (
        {split: [kept for kept, _ in found] for split, found in pairs.items()},
        {split: [read for _, read in found] for split, found in pairs.items()},
    )


def _open_source(run: Run, folder: Path) -> Source:
    """Load the teacher in the dtype this store was begun with, and keep its head beside the shards."""
    import torch

    from potstill.models.anatomy import head_weight
    from potstill.models.checkpoint import write_tensors
    from potstill.models.teacher import find_teacher, load_model
    from potstill.signals.collect import Source
    from potstill.signals.store import HEAD

    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    # One store must not mix two.
    model = load_model(teacher.checkpoint, getattr(torch, begun_dtype(folder)))
    kept = _kept(run, head_weight(model).detach())
    if not (folder / HEAD).exists():
        write_tensors(folder / HEAD, {"head": kept.head, **kept.binding})
    form = _store_format(run.recipe, model, kept, teacher.sha256)
    return Source(model, kept.teacher_ids, kept.head, form, run.recipe.signals.k, run.recipe.signals.batch_tokens)


@dataclass(frozen=True)
class Kept:
    """What of the teacher's head is kept, and what it is to the student.

    Args:
        head: [V, D] over the student's tokens; [U, D], all of it, for a student with a tokenizer of its own.
        teacher_ids: [V]; None for such a student. size: tokens the student has.
        binding: what `BoundHead` needs, for such a student.
    """

    head: Tensor
    teacher_ids: Tensor | None
    size: int
    binding: dict[str, Tensor]


def _kept(run: Run, head: Tensor) -> Kept:
    import torch

    if not (run.stage("vocab") / BINDING).exists():
        vocabulary = VocabMap.load(run.stage("vocab") / MAP)
        teacher_ids = torch.from_numpy(vocabulary.teacher_ids)
        return Kept(head[teacher_ids], teacher_ids, vocabulary.size, {})
    binding = Binding.load(run.stage("vocab") / BINDING)
    sorted_weight = torch.tensor(run.recipe.vocab.binding.sorted_weight)
    arrays = {"student_of": torch.from_numpy(binding.student_of), "sorted_weight": sorted_weight}
    return Kept(head.clone(), None, binding.students, arrays)


def _store_format(recipe: Recipe, model: PreTrainedModel, kept: Kept, teacher: str) -> StoreFormat:
    from potstill.signals.store import StoreFormat

    width, asked, layers = model.config.hidden_size, recipe.signals, recipe.teacher_layers()
    if asked.precision == "int8" and width % asked.group:
        raise Problem(f"signals.group = {asked.group} does not divide the teacher's width {width}", "Choose a divisor.")
    if layers and layers[-1] > model.config.num_hidden_layers:
        raise Problem(
            f"distill.hidden_pairs names teacher layer {layers[-1]}, it has {model.config.num_hidden_layers}",
            "Name a layer that exists.",
        )
    looks = recipe.attention_layers()
    if looks and looks[-1] > model.config.num_hidden_layers:
        raise Problem(
            f"distill.attention_pairs names teacher layer {looks[-1]}, it has {model.config.num_hidden_layers}",
            "Name a layer that exists.",
        )
    if kept.binding and (looks or asked.format == "topk"):
        raise Problem(
            "a student with a tokenizer of its own has other positions and tokens than its teacher: attention maps and "
            "topk signals cannot be told in them",
            'Remove distill.attention_pairs and set signals.format = "hidden".',
        )
    temperatures = recipe.distill.temperature.values() if asked.format == "topk" else ()
    return StoreFormat(
        "bound" if kept.binding else asked.format,
        asked.precision,
        asked.group,
        width,
        kept.size,
        layers,
        temperatures,
        teacher,
        attention=looks,
    )


def _report(
    folder: Path, examples: Mapping[str, Sequence[Example]], shards: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    answer_tokens = sum(example.rows for part in examples.values() for example in part)
    size = sum((folder / name).stat().st_size for names in shards.values() for name in names)
    return {
        "answers": sum(map(len, examples.values())),
        "tokens_read": sum(len(example.ids) for part in examples.values() for example in part),
        "answer_tokens": answer_tokens,
        "bytes_per_token": size / answer_tokens,
        "megabytes": size / 1e6,
    }
