"""What all contestants share: one teacher, one student to start from, one text.

In:  a run folder with answers, vocabulary and a healed student.
Out: `Material`: the teacher cut to the student's tokens, batches in a fixed order as JSON lines, questions.
Does not know: who trains with it, or how.

The student's vocabulary is a subset of the teacher's, with other ids. Trainers that compare logits want one vocabulary,
so the teacher's embedding and head are cut to the kept rows: it then reads the student's ids, as it does in a run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.answers import Answer, read_answers
from potstill.answers.tokenize import tokenize
from potstill.problem import Problem
from potstill.run import Run, write_text
from potstill.vocab.map import VocabMap

if TYPE_CHECKING:
    from potstill.models.examples import Example

TEACHER_FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Material:
    """Everything that is the same for all.

    Args:
        teacher: checkpoint over the student's tokens. student: checkpoint that every training starts from.
        train, held_out: examples in the student's ids. answers: prompt id → answer, for trainers that want text.
    """

    folder: Path
    teacher: Path
    student: Path
    train: list[Example]
    held_out: list[Example]
    answers: dict[str, Answer]

    def write(self, path: Path, examples: Sequence[Example]) -> None:
        """One JSON line each: what runners read."""
        write_text(path, "".join(_line(example, self.answers[example.id]) for example in examples))

    def sample(self, count: int) -> list[Example]:
        """So many training examples, of all lengths alike; all, where there are not more."""
        by_length = sorted(self.train, key=lambda example: len(example.ids))
        wanted = min(count, len(by_length))
        return [by_length[place * len(by_length) // wanted] for place in range(wanted)]

    def write_batches(self, path: Path, steps: int, batch: int, seed: int) -> None:
        """The examples of so many steps, in the order that our own trainer takes them in, one JSON line each.

        Whoever reads them one after the other, `batch` at a time, sees the batches that we see.
        """
        self.write(path, self.in_order(steps, batch, seed))

    def in_order(self, steps: int, batch: int, seed: int) -> list[Example]:
        """Examples of so many batches, epoch after epoch."""
        from potstill.distill.batches import LengthBatches

        order = LengthBatches([len(example.ids) for example in self.train], 0, seed, batch)
        batches: list[list[int]] = []
        for epoch in range(-(-steps // len(order))):
            order.set_epoch(epoch)
            batches += list(order)
        return [self.train[number] for numbers in batches[:steps] for number in numbers]


@dataclass(frozen=True)
class Work:
    """Floating-point operations that a token takes at least, whoever does it: its products with weight matrices.

    Args:
        training: forward and two backward products of the student's layers, and of its head at answer tokens.
        reading: forward products of the teacher's layers.
    """

    training: float
    reading: float


def needed_work(material: Material) -> Work:
    """From the checkpoints' shapes; a trainer whose teacher reads along does more than this."""
    layers, head = products(material.student)
    answers = sum(example.rows for example in material.train) / sum(len(example.ids) for example in material.train)
    return Work(6 * (layers + head * answers), 2 * products(material.teacher)[0])


def products(checkpoint: Path) -> tuple[int, int]:
    """Weights in the matrices of the layers, and in the head."""
    from safetensors import safe_open

    layers = head = 0
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118, safetensors' file is no mapping
            shape = file.get_slice(name).get_shape()
            if len(shape) == 2 and ".layers." in name:
                layers += shape[0] * shape[1]
            elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
                head = shape[0] * shape[1]
    return layers, head


def gather(run: Run, folder: Path, batch: int) -> Material:
    """Collect what the run has, and cut its teacher into `folder/teacher` on the first call.

    Args:
        batch: answers a step; training answers that would not fill one are left out, the longest first.

    Raises: Problem where the run lacks a stage, or its student has a tokenizer of its own.
    """
    from potstill.models.teacher import load_tokenizer

    if not (run.stage("vocab") / "vocab_map.safetensors").exists():
        raise Problem(
            "the student's tokenizer is its own", "Compare with a run whose student has its teacher's tokens."
        )
    answers = read_answers(run.stage("answers") / "answers.jsonl")
    tokenizer, context = load_tokenizer(run.stage("vocab")), run.recipe.signals.context
    train, held_out = (
        tokenize(tokenizer, [one for one in answers if one.prompt.split == split], context)
        for split in ("train", "held-out")
    )
    if not train or not held_out:
        raise Problem(f"{run.folder} has no answers of both splits", "Compare with a run that has held-out prompts.")
    teacher = folder / "teacher"
    if not all((teacher / name).exists() for name in TEACHER_FILES):
        run.progress.say("the teacher is cut to the student's tokens")
        cut_teacher(run, teacher)
    whole = _fill(train, batch)
    by_id = {one.prompt.id: one for one in answers}
    return Material(folder, teacher, run.stage("prune") / "student", whole, held_out, by_id)


def cut_teacher(run: Run, folder: Path) -> None:
    """Write the run's teacher with the embedding and the head of the kept tokens alone, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    from potstill.models.checkpoint import save_checkpoint
    from potstill.models.teacher import find_teacher, load_model
    from potstill.prune.heads import shape_of
    from potstill.prune.shape import StudentSpec, student_config

    whole = load_model(find_teacher(run.recipe.teacher.model, run.home, run.progress).checkpoint, torch.bfloat16)
    vocabulary = VocabMap.load(run.stage("vocab") / "vocab_map.safetensors")
    config, heads = whole.config, shape_of(whole.config)
    spec = StudentSpec(
        layers=config.num_hidden_layers,
        ffn=config.intermediate_size,
        hidden=config.hidden_size,
        vocabulary=vocabulary.size,
        tied=bool(config.tie_word_embeddings),
        heads=heads.heads,
        kv_heads=heads.groups,
        head=heads.width,
    )
    cut = AutoModelForCausalLM.from_config(student_config(config, spec, vocabulary), dtype=torch.bfloat16)
    kept = torch.from_numpy(vocabulary.teacher_ids)
    rows = ("embed_tokens.weight", "lm_head.weight")
    state = {name: value[kept] if name.endswith(rows) else value for name, value in whole.state_dict().items()}
    cut.load_state_dict(state)
    cut.generation_config = None
    save_checkpoint(cut, run.stage("vocab"), folder, torch.bfloat16, "")


def _fill(examples: Sequence[Example], batch: int) -> list[Example]:
    """All but the longest few, so that every batch is full."""
    if len(examples) < batch:
        raise Problem(f"{len(examples)} training answers do not fill a batch of {batch}", "Give a smaller --batch.")
    surplus = len(examples) % batch
    dropped = {id(one) for one in sorted(examples, key=lambda one: -len(one.ids))[:surplus]}
    return [one for one in examples if id(one) not in dropped]


def _line(example: Example, answer: Answer) -> str:
    fields = {
        "ids": example.ids.tolist(),
        "start": example.start,
        "messages": [
            {"role": "user", "content": answer.prompt.text},
            {"role": "assistant", "content": answer.text},
        ],
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"
