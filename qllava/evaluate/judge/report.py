"""A judged benchmark as a page to look at: reference and candidate side by side, with their scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qllava.errors import DataError
from qllava.evaluate.judge.bench import Bench, BenchItem, picture_of
from qllava.evaluate.judge.run import Judged
from qllava.report.answers import AnsweredQuestion, AnswersReport, write_answers

_NOT_JUDGED = "not judged"


def write_judge_report(
    out: Path, bench: Bench, answers: Mapping[str, str], judged: Judged, model: str
) -> AnswersReport:
    """Write the page; a score is the mean of the judge's readable replies about that question.

    Args:
        out: the HTML file.
        bench: the questions and reference answers.
        answers: the candidate's, by question id; questions without one are left out.
        judged: what the judge said of them.
        model: the candidate's name.
    """
    scores: dict[str, list[tuple[float, float]]] = {}
    for judgement in judged.judgements:
        if judgement.pair is not None:
            scores.setdefault(judgement.question, []).append(judgement.pair)
    rows = []
    for item in bench.items:
        if item.id not in answers:
            continue
        pairs = scores.get(item.id, [])
        reference, candidate = (_mean([pair[side] for pair in pairs]) for side in (0, 1))
        columns = (f"{reference}\n{item.reference}", f"{candidate}\n{answers[item.id]}")
        rows.append(AnsweredQuestion(_picture(bench, item), item.question, columns, kind=item.category))
    title = f"{model}: LLaVA-Bench, judged by {judged.judge}"
    return write_answers(out, rows, image_root=bench.image_root, title=title, models=["reference", model])


def _picture(bench: Bench, item: BenchItem) -> str:
    """Below the image root; a file of answers is judged without its pictures, too, and the page then says so."""
    try:
        return picture_of(bench, item).relative_to(bench.image_root).as_posix()
    except DataError:
        return item.image


def _mean(scores: list[float]) -> str:
    return f"{sum(scores) / len(scores):.3g} of 10" if scores else _NOT_JUDGED
