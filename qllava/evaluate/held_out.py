"""Samples a run did not train on, as conversations to score: its held-out questions, or what `--data` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qllava.checkpoint.manifest import Run
from qllava.data.chat_template import PLAIN, stage_template
from qllava.data.formats import load_conversations
from qllava.data.steps import Conversations
from qllava.errors import DataError
from qllava.evaluate.questions import Question, image_root, read_questions
from qllava.types import IMAGE, Conversation, text

HELD_OUT = "heldout.jsonl"


@dataclass(frozen=True)
class HeldOut:
    """Conversations to score; `what` says where they come from, and so whether the run has seen them."""

    conversations: Sequence[Conversation]
    image_root: Path
    what: str


def as_conversations(questions: Sequence[Question]) -> list[Conversation]:
    """Question sets as samples: the question, and the first accepted answer as the wanted one."""
    return [
        Conversation(
            id=question.id,
            images=() if question.image is None else (question.image,),
            messages=(
                {
                    "role": "user",
                    "content": [*([] if question.image is None else [IMAGE]), text(question.question)],
                },
                {"role": "assistant", "content": [text(question.answers[0])]},
            ),
            kind=question.kind or None,
        )
        for question in questions
    ]


def read_held_out(file: Path, images: Path | None, *, limit: int) -> HeldOut:
    """A question set, or any data file of conversations; at most `limit` of them at even distances.

    Raises:
        UsageError, DataError: it or its pictures cannot be read.
    """
    if not file.is_file():
        raise DataError(f"data file {file} does not exist; `qllava gen-data` writes data/{HELD_OUT}")
    root = image_root(file, images)
    if is_question_set(file):
        return HeldOut(spread_over(as_conversations(read_questions(file)), limit), root, f"questions of {file}")
    return HeldOut(spread_over(load_conversations(file, image_root=root), limit), root, f"samples of {file}")


def held_out_of(run: Run, *, limit: int) -> HeldOut:
    """What a run can be scored on: the questions held out beside its data.

    A template that drops questions (`plain`, stage 1) leaves nothing to ask: such a run is scored on captions it
    trained on, which is said; a projector alone remembers none of them.

    Raises:
        DataError: the run's data is gone.
    """
    name = str(run.manifest.data.get("path", ""))
    data = next((path for path in (Path(name), run.folder.resolve().parent.parent / name) if path.is_file()), None)
    if data is None:
        raise DataError(f"the data of {run.folder} ({name}) is not there; name a file to score with --data")
    recipe = run.recipe
    template = stage_template(recipe.template, recipe.align_template, run.manifest.stage)
    held = data.with_name(HELD_OUT)
    if template != PLAIN and held.is_file():
        return read_held_out(held, None, limit=limit)
    found = read_held_out(data, _images_of(run, data), limit=limit)
    return HeldOut(found.conversations, found.image_root, f"samples it trained on, of {data}")


def spread_over(conversations: Conversations, limit: int) -> list[Conversation]:
    """At most `limit` at even distances."""
    count = min(limit, len(conversations))
    return [conversations[number * len(conversations) // count] for number in range(count)]


def is_question_set(file: Path) -> bool:
    """Whether the first line of a JSONL file is a question, not a conversation."""
    if file.suffix != ".jsonl":
        return False
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    return '"conversations"' not in first and '"messages"' not in first


def _images_of(run: Run, data: Path) -> Path | None:
    """The image root that the run was trained with, where it is still there; else what lies beside the data."""
    named = Path(str(run.manifest.data.get("image_root", "")))
    for root in (named, run.folder.resolve().parent.parent / named):
        if str(named) != "." and root.is_dir():
            return root
    return None if (data.parent / "card.json").is_file() else data.parent
