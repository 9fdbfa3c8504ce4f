"""A model answers a question set: what is on the disk already is not asked again, the rest is kept as it comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qllava.evaluate.ask import ask
from qllava.evaluate.kept_answers import keep, read_kept
from qllava.evaluate.questions import Question
from qllava.infer.engine import Engine

# Questions between two writes: what a crash can cost, against batches that are full.
_AT_ONCE = 64


def questions_digest(questions: Sequence[Question]) -> str:
    """Identity of a question set: ids, texts and pictures, in order; 16 hex digits."""
    content = [[question.id, question.image, question.question] for question in questions]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()[:16]


def answer_and_keep(
    engine: Engine,
    questions: Sequence[Question],
    image_root: Path,
    path: Path,
    identity: Mapping[str, Any],
    *,
    max_new_tokens: int,
) -> Iterator[tuple[str, str]]:
    """Yield (question id, answer) of every question: first those of an earlier run, then new ones, once on the disk.

    Args:
        engine: the model.
        questions: their pictures are relative to ...
        image_root: ... this folder.
        path: the file of answers, see `kept_answers`.
        identity: what the answers belong to.
        max_new_tokens: answers are cut there.

    Raises:
        DataError: the file is of something else, or a picture is missing or unreadable.
    """
    kept = read_kept(path, identity)
    yield from ((question.id, kept[question.id]) for question in questions if question.id in kept)
    missing = sorted((q for q in questions if q.id not in kept), key=lambda question: question.image or "")

    def answers() -> Iterator[tuple[str, str]]:
        for start in range(0, len(missing), _AT_ONCE):
            for question, answer in ask(
                engine, missing[start : start + _AT_ONCE], image_root, max_new_tokens=max_new_tokens
            ):
                yield question.id, answer

    if missing:
        yield from keep(path, identity, answers())
