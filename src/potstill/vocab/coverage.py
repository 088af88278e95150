"""How much of the teacher's probability falls on the kept tokens.

In:  the teacher, the student's tokenizer, answers.
Out: one share between 0 and 1.
Does not know: recipes, runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from potstill.answers import Answer
from potstill.machine import fastest_dtype
from potstill.models.anatomy import body, head_weight
from potstill.models.conversation import answer_ids, question_ids
from potstill.models.positions import predicting
from potstill.models.teacher import Teacher, load_model
from potstill.vocab.map import VocabMap


@torch.inference_mode()
def kept_probability(
    teacher: Teacher,
    student_tokenizer: PreTrainedTokenizerBase,
    vocabulary: VocabMap,
    answers: Sequence[Answer],
    tokens: int,
) -> float:
    """Mean over the first `tokens` answer positions of the probability the teacher gives to kept tokens.

    The teacher reads the student's ids, as it will in the signals.
    """
    model = load_model(teacher.checkpoint, getattr(torch, fastest_dtype()))
    kept = torch.from_numpy(vocabulary.teacher_ids)
    share, seen = 0.0, 0
    for answer in answers:
        question = question_ids(student_tokenizer, answer.prompt.text)
        ids = question + answer_ids(student_tokenizer, answer.text, ended=answer.finish != "length")
        if seen >= tokens or len(ids) == len(question):
            continue
        hidden = body(model)(kept[torch.tensor([ids])]).last_hidden_state[0, predicting(len(question), len(ids))]
        logits = (hidden @ head_weight(model).T).float()
        share += float((logits[:, kept].logsumexp(-1) - logits.logsumexp(-1)).exp().sum())
        seen += len(hidden)
    return share / max(seen, 1)
