"""Divergences between what the teacher and the student expect, and distances between what they hold on the way.

In:  logits, sparse signals, hidden states or attention maps of the same N answer positions.
Out: one value a position, in nats (total variation and cosine: dimensionless).
Does not know: tokens, batches, padding, models, files.

Every divergence works on log-probabilities [N, C] of both sides over the same C outcomes. `dense_sides` brings logits
to that form (C = V), `bucket_sides` brings top-k signals to it (K tokens and one bucket that holds all others).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.nn import functional

Sides = tuple[Tensor, Tensor]
"""Log-probabilities of the teacher and of the student, float32 [N, C] each; gradients flow through the student's."""

NOTHING = -1e4
"""Logarithm of a bucket that holds nothing: its exponential is 0, and 0 times it is no NaN."""


def dense_sides(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Sides:
    """Both sides over the whole vocabulary.

    Args:
        teacher_logits, student_logits: [N, V], any float dtype.
        temperature: > 0; softens both sides.

    Raises: ValueError where shapes differ.
    """
    _same_shape(teacher_logits, student_logits)
    return _softened(teacher_logits.detach(), temperature), _softened(student_logits, temperature)


def bucket_sides(
    ids: Tensor, log_probabilities: Tensor, rest: Tensor, student_logits: Tensor, temperature: float
) -> Sides:
    """Both sides over K tokens and one bucket that holds all others; without the bucket where K = V.

    The teacher is never renormalised over its top-k: at T = 3 they hold under a tenth of its probability.

    Args:
        ids: [N, K] the teacher's likeliest tokens.
        log_probabilities: [N, K] their log-probabilities at T = 1.
        rest: [N] log Σ exp(log-probability / T) over all other tokens at *this* temperature; -inf where K = V.
        student_logits: [N, V]. temperature: > 0.

    Raises: ValueError where shapes differ.
    Source: the tail as one exact bucket, against the bias of plain top-k, arXiv:2503.16870.
    """
    _same_shape(ids, log_probabilities)
    _same_shape(rest, student_logits[:, 0])
    scaled = log_probabilities.detach().float() / temperature
    normaliser = torch.logaddexp(scaled.logsumexp(dim=-1), rest.float())[:, None]
    teacher = scaled - normaliser
    student = _softened(student_logits, temperature)
    kept = student.gather(1, ids.long())
    if ids.shape[1] == student_logits.shape[1]:
        return teacher, kept
    outside = student.scatter(1, ids.long(), float("-inf")).logsumexp(dim=-1, keepdim=True)
    teacher_rest = (rest.float()[:, None] - normaliser).clamp(min=NOTHING)
    return torch.cat([teacher, teacher_rest], dim=1), torch.cat([kept, outside], dim=1)


def kl(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(ours ‖ theirs) at each position, from log-probabilities [N, C]. Returns: [N], 0 exactly where equal."""
    each: Tensor = torch.linalg.vecdot(ours.exp(), ours - theirs)
    return each


def jensen_shannon(teacher: Tensor, student: Tensor, mixture: float) -> Tensor:
    """Generalised Jensen-Shannon: β KL(p ‖ m) + (1 - β) KL(q ‖ m) with m = β p + (1 - β) q, at each position.

    Args:
        teacher, student: log-probabilities [N, C] of p and q. mixture: β in (0, 1), the teacher's share.

    Returns: [N], at most log 2, 0 where equal.
    Source: GKD, arXiv:2306.13649, equation 1.
    """
    middle = _mixture(teacher, student, mixture)
    return mixture * kl(teacher, middle) + (1 - mixture) * kl(student, middle)


def skewed_kl(teacher: Tensor, student: Tensor, skew: float) -> Tensor:
    """KL(p ‖ α p + (1 - α) q) at each position: at most -log α, however little q gives.

    Args:
        teacher, student: log-probabilities [N, C] of p and q. skew: α in (0, 1), the teacher's share.

    Returns: [N], 0 where equal.
    Source: DistiLLM, arXiv:2402.03898, equation 4.
    """
    return kl(teacher, _mixture(teacher, student, skew))


def total_variation(teacher: Tensor, student: Tensor) -> Tensor:
    """½ Σ |p - q| at each position, from log-probabilities [N, C].

    Returns: [N] in [0, 1], 0 exactly where equal.
    Source: f-divergences in distillation, arXiv:2307.15190.
    """
    return (teacher.exp() - student.exp()).abs().sum(dim=-1) / 2


def divergences(
    sides: Sides, temperature: float, wanted: Collection[str], mixture: float, skew: float
) -> dict[str, Tensor]:
    """T² times each wanted divergence, at each position. Of one name alone: `divergences(…)[name]`.

    T² makes up for the softening, which divides gradients by it (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        sides: log-probabilities at that temperature.
        wanted: of forward_kl, reverse_kl, jensen_shannon, skewed_kl, total_variation; other names are passed over.
        mixture, skew: the teacher's shares in Jensen-Shannon's and in the skewed KL's mixture.

    Returns: name → [N] float32, >= 0, and 0 where the two sides are equal (mixtures: but for rounding).
    Raises: ValueError where shapes differ.
    """
    teacher, student = sides
    _same_shape(teacher, student)
    known: dict[str, Callable[[], Tensor]] = {
        "forward_kl": lambda: kl(teacher, student),
        "reverse_kl": lambda: kl(student, teacher),
        "jensen_shannon": lambda: jensen_shannon(teacher, student, mixture),
        "skewed_kl": lambda: skewed_kl(teacher, student, skew),
        "total_variation": lambda: total_variation(teacher, student),
    }
    return {name: temperature**2 * value() for name, value in known.items() if name in wanted}


def forward_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(p_T ‖ q_T) at each position, from logits [N, V].

    Returns: [N] float32, nats, >= 0, and 0 exactly where the two are equal.
    Raises: ValueError where shapes differ.
    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    return temperature**2 * kl(*dense_sides(teacher_logits, student_logits, temperature))


def cross_entropy(student_logits: Tensor, tokens: Tensor) -> Tensor:
    """-log q(token) at T = 1, at each position.

    Args:
        student_logits: [N, V]. tokens: [N] what was said.

    Returns: [N] float32, nats.
    Raises: ValueError where the numbers of positions differ.
    """
    if tokens.shape != student_logits.shape[:1]:
        raise ValueError(f"{len(student_logits)} positions and {tuple(tokens.shape)} tokens differ")
    return functional.cross_entropy(student_logits.float(), tokens, reduction="none")


def hidden_cosine(student_states: Tensor, teacher_states: Tensor) -> Tensor:
    """1 − cos between hidden states of the same width, at each position.

    Args:
        student_states: [N, D], already mapped to the teacher's width.
        teacher_states: [N, D]; no gradient flows into it.

    Returns: [N] float32 in [0, 2], 0 where the directions agree.
    Raises: ValueError where shapes differ.
    Source: DistilBERT's cosine term, arXiv:1910.01108; FitNets' hints, arXiv:1412.6550.
    """
    _same_shape(teacher_states, student_states)
    return 1.0 - functional.cosine_similarity(student_states.float(), teacher_states.detach().float(), dim=-1)


def attention_kl(teacher_map: Tensor, student_map: Tensor) -> Tensor:
    """KL(teacher's attention ‖ student's) over the positions looked at, at each position that looks.

    Args:
        teacher_map: [N, T] probabilities, 0 where a position can't look; scaled to the sum 1, for it was rounded.
        student_map: [N, T] probabilities; gradients flow through it alone.

    Returns: [N] float32, nats, 0 where equal.
    Raises: ValueError where shapes differ.
    Source: MiniLM's attention transfer, arXiv:2002.10957, on the mean over heads.
    """
    _same_shape(teacher_map, student_map)
    teacher = teacher_map.detach().float()
    teacher = teacher / teacher.sum(dim=-1, keepdim=True)
    student = student_map.float().clamp(min=torch.finfo(torch.float32).tiny)
    each: Tensor = torch.special.xlogy(teacher, teacher) - teacher * student.log()
    return each.sum(dim=-1)


def _softened(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities in float32. Dividing by 1 would be one more pass over all of them, and one back."""
    return functional.log_softmax(logits.float() if temperature == 1.0 else logits.float() / temperature, dim=-1)


def _mixture(teacher: Tensor, student: Tensor, share: float) -> Tensor:
    return torch.logaddexp(teacher + math.log(share), student + math.log1p(-share))


def _same_shape(teacher: Tensor, student: Tensor) -> None:
    if teacher.shape != student.shape:
        raise ValueError(f"teacher {tuple(teacher.shape)} and student {tuple(student.shape)} differ")
