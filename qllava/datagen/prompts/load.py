"""Reading a folder of prompts: per kind a system text and worked examples, for detail the preset questions.

    conversation/system.txt   conversation/example-1.context.txt   conversation/example-1.answer.txt   ...

An example's context is captions, an empty line, then lines of boxes, as the teacher will get it; its answer is
`Question:` / `===` / `Answer:` text, or for detail the answer alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from qllava.datagen.lessons import Kind, Turn
from qllava.datagen.parse import parse_answer
from qllava.errors import UsageError


@dataclass(frozen=True, slots=True)
class Example:
    """One worked example: what is known about a picture, and the turns that are wanted for it."""

    captions: tuple[str, ...]
    boxes: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a teacher is told for one kind; `questions` are the preset ones of detail, else empty."""

    kind: Kind
    system: str
    examples: tuple[Example, ...]
    questions: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 (hex) over everything in it."""
        content = {
            "system": self.system,
            "examples": [
                [list(e.captions), list(e.boxes), [[turn.question, turn.answer] for turn in e.turns]]
                for e in self.examples
            ],
            "questions": list(self.questions),
        }
        return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def load_prompts(folder: Path | None, kinds: Sequence[Kind]) -> dict[Kind, Prompt]:
    """The prompts of `kinds`, from `folder` or, when it is None, the ones that come with qllava.

    Raises:
        UsageError: the folder or a piece of it is missing, empty, not UTF-8, or an example's answer cannot be read.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--prompts {folder}: no such folder; it holds conversation/, detail/ and reasoning/")
    root: Traversable = folder if folder is not None else files("qllava.datagen.prompts")
    name = str(folder) if folder is not None else "qllava's prompts"
    return {kind: _prompt(root.joinpath(kind), f"{name}/{kind}", kind) for kind in kinds}


def _prompt(folder: Traversable, name: str, kind: Kind) -> Prompt:
    examples: list[Example] = []
    while True:
        stem = f"example-{len(examples) + 1}"
        pieces = [folder.joinpath(f"{stem}.{part}.txt") for part in ("context", "answer")]
        if not any(piece.is_file() for piece in pieces):
            break
        examples.append(_example(folder, name, kind, stem))
    if not examples:
        raise UsageError(f"--prompts {name}/example-1.context.txt is missing; give each kind at least one example")
    questions: tuple[str, ...] = ()
    if kind == "detail":
        lines = _read(folder, "questions.txt", name).splitlines()
        questions = tuple(line.strip() for line in lines if line.strip())
    return Prompt(kind, _read(folder, "system.txt", name), tuple(examples), questions)


def _example(folder: Traversable, name: str, kind: Kind, stem: str) -> Example:
    context = _read(folder, f"{stem}.context.txt", name)
    captions, _, boxes = context.partition("\n\n")
    answer = _read(folder, f"{stem}.answer.txt", name)
    parsed = parse_answer(answer, kind, cut_off=False)
    if parsed.rejections:
        raise UsageError(
            f"--prompts {name}/{stem}.answer.txt: {parsed.rejections[0].detail}; write it as "
            + ("the answer alone" if kind == "detail" else "Question:, its text, ===, Answer:, its text")
        )
    return Example(_lines(captions), _lines(boxes), parsed.turns)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _read(folder: Traversable, file: str, name: str) -> str:
    try:
        text = folder.joinpath(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise UsageError(f"--prompts {name}/{file} is not text in UTF-8; save it again") from None
    except OSError:
        raise UsageError(f"--prompts {name}/{file} is missing; copy the layout of qllava's own prompts") from None
    if not text:
        raise UsageError(f"--prompts {name}/{file} is empty; write the prompt or copy qllava's own")
    return text
