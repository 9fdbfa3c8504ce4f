"""ScienceQA's answers as a page to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qllava.evaluate.science_qa.extract import extract_choice
from qllava.evaluate.science_qa.problems import Problem
from qllava.report.answers import AnsweredQuestion, AnswersReport, write_answers
from qllava.report.page import spread

MOST_WITHOUT_PICTURE = 200
"""Half of the problems have none, and a page of thousands of texts helps nobody."""


def write_science_report(
    out: Path, problems: Sequence[Problem], answers: Mapping[str, str], *, image_root: Path, model: str
) -> AnswersReport:
    """Write the page: every problem with a picture (of at most 500 pictures), some of those without.

    Args:
        out: the HTML file.
        problems: in the order to show them.
        answers: by problem id; a missing one shows as no answer.
        image_root: folder of the pictures.
        model: its name in the title.
    """
    without = [problem for problem in problems if problem.image is None]
    bare = spread(without, MOST_WITHOUT_PICTURE)
    title = f"{model}: ScienceQA"
    if len(bare) < len(without):  # what is left out is said on the page itself
        title += f" ({len(bare)} of {len(without):,} problems without a picture)"
    shown = [problem for problem in problems if problem.image is not None] + bare
    rows = [_row(problem, answers.get(problem.id)) for problem in shown]
    return write_answers(out, rows, image_root=image_root, title=title, models=[model])


def _row(problem: Problem, answer: str | None) -> AnsweredQuestion:
    options = [f"({letter}) {choice}" for letter, choice in zip(problem.letters, problem.choices, strict=True)]
    hint = [problem.hint.strip()] if problem.hint.strip() else []
    chosen = extract_choice(answer, len(problem.choices))
    return AnsweredQuestion(
        problem.image,
        "\n".join([*hint, problem.question, *options]),
        (answer or "",),
        (options[problem.answer],),
        problem.subject,
        right=chosen.choice == problem.answer,
    )
