"""Answers on disk as they come: `answers.jsonl`, whose first line says what they are answers to and whose.

A second run continues the file and asks only what it lacks; answers of another question set, model or setting are
refused, never mixed.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from qllava.errors import DataError, UsageError

FORMAT = 1
_MARK = "qllava_answers"


@dataclass(frozen=True)
class Heading:
    """What a file's answers are.

    Attributes:
        benchmark: e.g. `vqa`.
        questions: digest of the whole question set (`question_set_digest`).
        model: what the model is called.
        model_digest: what tells it from another of that name.
        template: the chat template's name.
        settings: what else an answer depends on: condition, max_new_tokens, ...; JSON values.
    """

    benchmark: str
    questions: str
    model: str
    model_digest: str
    template: str
    settings: Mapping[str, Any] = field(default_factory=dict)


class AnswerFile:
    """An answer file that is being written; a context manager, and nobody else can write it meanwhile."""

    def __init__(self, path: Path, heading: Heading) -> None:
        """Open or continue a file; half a line that a killed run left is cut off.

        Raises:
            DataError: the file holds answers of another set, model or setting, or is no answer file.
            UsageError: another process is writing it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # "a+": made if it is not there, and every write goes to its end.
        self._file: IO[bytes] = path.open("a+b")
        try:
            self._lock()
            self.answers = self._continue(heading)
        except BaseException:
            self._file.close()
            raise

    def append(self, identity: str, answer: str) -> None:
        """Keep one answer; it is in the file when this returns."""
        self._write({"id": identity, "answer": answer})
        self.answers[identity] = answer

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another eval is writing {self.path}; wait for it, or choose another --out") from None

    def _continue(self, heading: Heading) -> dict[str, str]:
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if not whole:
            if text and not b'{"qllava_answers"'.startswith(text[:17]):
                raise _no_answers(self.path)
            self._file.truncate(0)
            self._write({_MARK: FORMAT, **asdict(heading)})
            return {}
        found, answers = _parse(whole, self.path)
        check_same(self.path, found, heading)
        self._file.truncate(len(whole))
        return answers

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_answers(path: Path) -> tuple[Heading, dict[str, str]]:
    """Heading and answers by question id; half a line at the end is left out.

    Raises:
        DataError: no such file, an empty one, or one that is no answer file.
    """
    if not path.is_file():
        raise DataError(f"answer file {path} does not exist; `qllava eval` writes one")
    text = path.read_bytes()
    return _parse(text[: text.rfind(b"\n") + 1], path)


def check_same(path: Path, found: Heading, wanted: Heading) -> None:
    """Refuse a file whose answers are of something else.

    Raises:
        DataError: says what differs, and both.
    """
    names = {"questions": "another question set", "model": "another model", "model_digest": "another model"}
    for entry in fields(Heading):
        there, here = getattr(found, entry.name), getattr(wanted, entry.name)
        if there == here:
            continue
        if isinstance(there, Mapping):
            # Through JSON: a tuple and a list are the same there.
            here = json.loads(json.dumps(here))
            keys = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
            if not keys:
                continue
            there, here = f"{keys[0]}={there.get(keys[0])}", f"{keys[0]}={here.get(keys[0])}"
        what = names.get(entry.name, f"another {entry.name.removesuffix('s')}")
        raise DataError(
            f"{path} holds answers of {what} ({there} there, {here} here); choose another --out, or move the file away"
        )


def _parse(text: bytes, path: Path) -> tuple[Heading, dict[str, str]]:
    if not text.strip():
        raise DataError(f"answer file {path} is empty; run the eval command again to write it")
    first, *rest = text.splitlines()
    heading = _heading(first, path)
    answers: dict[str, str] = {}
    for number, line in enumerate(rest, start=2):
        try:
            row = json.loads(line)
            answers[str(row["id"])] = str(row["answer"])
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path} line {number} is no answer; take the line out, or move the file away and ask again"
            ) from None
    return heading, answers


def _heading(line: bytes, path: Path) -> Heading:
    try:
        values = json.loads(line)
        version = values.pop(_MARK)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _no_answers(path) from None
    if version != FORMAT:
        raise DataError(f"{path} has answer format {version}, this qllava reads {FORMAT}; update qllava")
    try:
        return Heading(**values)
    except TypeError:
        raise _no_answers(path) from None


def _no_answers(path: Path) -> DataError:
    return DataError(f"{path} is no answer file of qllava; choose another --out, or move it away")
