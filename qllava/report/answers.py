"""Answers as a page to look at: each picture beside what was asked about it and what was answered, right or wrong.

Always one HTML file with everything in it, so that it can be sent to somebody; of very many pictures it shows some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qllava.report.page import PageEntry, PageWriter, Words, page_html, spread, write_page

MOST_PICTURES = 500
"""About 10 MB."""


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """One question with its answers, one a model.

    `accepted` are the right answers, empty where there are none; `right` says how a single answer was scored, None
    where it was not.
    """

    image: str | None
    question: str
    answers: tuple[str, ...]
    accepted: tuple[str, ...] = ()
    kind: str = ""
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class AnswersReport:
    """What was written: pictures shown of those there are, and those that could not be read."""

    out: Path
    pictures: int
    of_pictures: int
    unreadable: int


def write_answers(
    out: Path,
    rows: Sequence[AnsweredQuestion],
    *,
    image_root: Path,
    title: str,
    models: Sequence[str],
    limit: int = MOST_PICTURES,
) -> AnswersReport:
    """Write the page.

    Args:
        out: the HTML file.
        rows: in the order to show them; those about one picture are put together.
        image_root: folder of the pictures.
        title: of the page.
        models: names of the models, one for each answer of a row.
        limit: at most this many pictures, spread evenly.
    """
    by_picture: dict[str, list[AnsweredQuestion]] = {}
    for row in rows:
        by_picture.setdefault(row.image or "", []).append(row)
    chosen = spread(list(by_picture), limit)
    writer = PageWriter(None, models if len(models) > 1 else ())
    for image in chosen:
        writer.add(image, image_root, [_entry(row) for row in by_picture[image]])
    judged = any(row.right is not None for row in rows)
    who = models[0] if len(models) == 1 else f"{len(models)} models"
    words = Words("answers", "answers" if judged else "questions", "right", "wrong" if judged else "", who)
    scripts = writer.finish(title=title, words=words, of_pictures=len(by_picture))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(out, page_html(scripts, ""))
    return AnswersReport(out, len(chosen), len(by_picture), writer.unreadable)


def _entry(row: AnsweredQuestion) -> PageEntry:
    if len(row.answers) > 1:
        return PageEntry(row.kind, "", ((row.question, ""),), columns=row.answers)
    answer = row.answers[0]
    reason = None if row.right is not False else ("wrong answer" if answer.strip() else "no answer")
    # Each wording once: ten people mostly wrote the same.
    accepted = ", ".join(dict.fromkeys(row.accepted))
    return PageEntry(row.kind, "", ((row.question, answer),), reason, f"accepted: {accepted}" if accepted else "")
