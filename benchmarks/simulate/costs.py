"""What a token costs: operations, bytes and seconds, in each stage, for a teacher, a student and a machine.

In:  a model's shape, a machine.
Out: FLOPs, bytes, tokens a second, the break-even between hidden states and top-k.
Does not know: how many prompts there are, queues, prices.

Left out because small at a few hundred tokens a sequence: the products of attention among positions (1 % for 0.5B at
217 tokens), norms, the vocabulary and prune stages (their work does not grow with the prompts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hardware import Machine

from potstill.check.material import PEOPLES

GROUP = 128
"""Values of a hidden state that share a scale of two bytes."""
ANSWER, TEXT = PEOPLES.answer, PEOPLES.question + PEOPLES.answer
"""Tokens of an answer, and of it with its question."""
STEP_TOKENS = 16_384
"""Tokens of a rank in a training step on a GPU."""
ROOM, ROOM_FOR_WEIGHTS = 0.9, 0.7
"""Shares of a device's memory that weights and caches may take, and weights alone."""


@dataclass(frozen=True)
class Shape:
    """A causal model: `body` parameters outside the embedding, `width` D, `vocabulary` V, `cache` values a token."""

    name: str
    body: float
    width: int
    vocabulary: int
    cache: int

    @property
    def parameters(self) -> float:
        """With the head (which a small model shares with its embedding)."""
        return self.body + self.width * self.vocabulary


HALF_B = Shape("0.5B", 358e6, 896, 151_936, 24 * 2 * 128)
TEACHERS = (
    HALF_B,
    Shape("7B", 6.53e9, 3584, 152_064, 28 * 2 * 512),
    Shape("32B", 31.2e9, 5120, 152_064, 64 * 2 * 1024),
    Shape("70B", 70.2e9, 8192, 152_064, 80 * 2 * 1024),
)
"""The Qwen2.5 family as its configurations say; its largest is called 72B."""
STUDENT = Shape("150M", 121e6, 896, 32_768, 0)
"""The demo's."""


def hidden_bytes(width: int, value_bytes: int = 1) -> float:
    """A token's last hidden state: int8 with a scale for every GROUP values, or floats."""
    return width * value_bytes + (2 * width / GROUP if value_bytes == 1 else 0)


def topk_bytes(k: int, temperatures: int = 1) -> float:
    """Ids and log-probabilities in four bytes each, and the rest's at each temperature."""
    return 8 * k + 4 * temperatures


def break_even(width: int, value_bytes: int = 1, temperatures: int = 1) -> float:
    """K beyond which top-k takes more bytes than the hidden state, which holds all logits."""
    return (hidden_bytes(width, value_bytes) - 4 * temperatures) / 8


def reading_flops(teacher: Shape) -> float:
    """A token read, without the head: hidden states need none."""
    return 2 * teacher.body


def writing_flops(teacher: Shape) -> float:
    """A token written."""
    return 2 * teacher.parameters


def training_flops(teacher: Shape, student: Shape = STUDENT) -> float:
    """A token trained on: the student's body three times; at answer tokens its head, and the teacher's replayed."""
    heads = (6 * student.width + 2 * teacher.width) * student.vocabulary
    return 6 * student.body + heads * ANSWER / TEXT


def devices_for(teacher: Shape, machine: Machine) -> int:
    """Devices that hold one copy of the teacher in two bytes a weight, a power of two."""
    needed = 2 * teacher.parameters / (ROOM_FOR_WEIGHTS * machine.memory)
    return 1 if needed <= 1 else 2 ** math.ceil(math.log2(needed))


def reading_rate(teacher: Shape, machine: Machine) -> float:
    """Tokens a second of one device (of its share of a group)."""
    return machine.reads * machine.peak / reading_flops(teacher)


def training_rate(teacher: Shape, machine: Machine) -> float:
    """Tokens a second of one device, without what it waits for others."""
    return machine.trains * machine.peak / training_flops(teacher)


def writing_rate(teacher: Shape, machine: Machine) -> float:
    """Tokens a second of one device: a step of all slots reads the weights once and every slot's cache."""
    if machine.wrote:
        return machine.wrote * HALF_B.parameters / teacher.parameters
    group = devices_for(teacher, machine)
    weights, cache = 2 * teacher.parameters, 2 * teacher.cache * TEXT
    slots = min(machine.slots, int((ROOM * machine.memory * group - weights) / cache))
    moved = (weights + slots * cache) / (machine.writes * machine.bandwidth)
    multiplied = slots * writing_flops(teacher) / (machine.reads * machine.peak)
    return slots / max(moved, multiplied)
