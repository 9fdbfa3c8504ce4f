"""How long a data set's samples are, cheaply and without torch: what `qllava plan --data` plans with.

A few thousand samples are rendered by the recipe's template and counted by its tokenizer; where that is not on this
machine, four characters are taken for a token. How many samples share a picture is counted over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from qllava.data.chat_template import IMAGE_TOKEN, ChatTemplate, load_chat_template
from qllava.data.formats import ConversationTable
from qllava.errors import DataError
from qllava.plan.work import Lengths, Sharing, StageText
from qllava.types import Conversation

SAMPLED = 2000
CHARACTERS_A_TOKEN = 4.0

Count = Callable[[str], float]


def measure_lengths(
    table: ConversationTable, *, template: str, tokenizer_file: Path | None, needs_image: bool, seed: int = 0
) -> tuple[Lengths, int]:
    """Mean lengths of a data set, and how many of its samples the stage uses.

    Args:
        table: the opened data.
        template: name of the stage's chat template.
        tokenizer_file: the recipe's `tokenizer.json`, or None for the estimate.
        needs_image: stage 1 leaves text-only samples out.
        seed: of the choice of samples.

    Raises:
        DataError: no sample can be used.
    """
    pictures: set[tuple[str, ...]] = set()
    usable: list[int] = []
    illustrated = 0
    for index, conversation in enumerate(table):
        if conversation.images:
            pictures.add(conversation.images)
            illustrated += 1
        elif needs_image:
            continue
        usable.append(index)
    if not usable:
        raise DataError(f"{table.source} holds no sample with a picture; stage 1 needs pictures and captions")
    chosen = np.random.default_rng(seed).permutation(len(usable))[:SAMPLED]
    count = _tokenizer(tokenizer_file)
    chat = load_chat_template(template)
    measured = np.array([_measure(table[usable[i]], chat, count) for i in sorted(chosen)])
    tokens, supervised, prefix = measured.mean(axis=0)
    a_picture = illustrated / len(pictures) if pictures else 1.0
    how = f"{len(chosen):,} of {len(usable):,} samples, " + (
        "counted by the recipe's tokenizer"
        if tokenizer_file
        else f"{CHARACTERS_A_TOKEN:g} characters taken for a token"
    )
    text = StageText(float(tokens), float(supervised))
    return Lengths(text, Sharing(a_picture, float(prefix)), how), len(usable)


def _measure(conversation: Conversation, template: ChatTemplate, count: Count) -> tuple[float, float, float]:
    """Text tokens beside the pictures, those of answers, and those up to the first picture."""
    rendered, spans = template.render(conversation.messages, special_tokens={"bos_token": "", "eos_token": ""})
    before, picture, _ = rendered.partition(IMAGE_TOKEN)
    answers = sum(count(rendered[start:end]) for start, end in spans)
    return count(rendered.replace(IMAGE_TOKEN, "")), answers, count(before) if picture else 0.0


def _tokenizer(file: Path | None) -> Count:
    if file is None:
        return lambda text: len(text) / CHARACTERS_A_TOKEN
    from tokenizers import Tokenizer  # noqa: PLC0415

    backend = Tokenizer.from_file(str(file))
    return lambda text: float(len(backend.encode(text, add_special_tokens=False).ids))
