"""`qllava eval vqa`: a question set, answered and scored."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qllava_cli.console import note, say
from qllava_cli.eval_options import (
    ImagesOption,
    JsonOption,
    LimitOption,
    ModelOption,
    Nf4Option,
    OutOption,
    RunOption,
    RunsOption,
    TokensOption,
    answering,
    find_model,
    lazy_engine,
    print_result,
    show_report,
)


class Shown(StrEnum):
    """Which picture a question is asked with."""

    right = "right"
    shuffled = "shuffled"
    none = "none"


def vqa(
    file: Annotated[Path, typer.Argument(help="JSON lines with id, image, question, answers, type.")],
    images: ImagesOption = None,
    run: RunOption = None,
    model: ModelOption = None,
    nf4: Nf4Option = False,
    condition: Annotated[
        list[Shown] | None, typer.Option("--condition", help="Repeatable.", show_default="right")
    ] = None,
    limit: LimitOption = None,
    max_new_tokens: TokensOption = 32,
    out: OutOption = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Answer a question set and score it: exact match, or VQA v2's accuracy where questions have ten answers.

    Answers are kept as they come; the same command asks only what is missing. `--condition shuffled` and `none` tell
    what the picture adds.
    """
    from qllava.evaluate.questions import image_root, read_questions  # noqa: PLC0415

    found = read_questions(file)
    root = image_root(file, images)
    conditions = list(dict.fromkeys(condition or [Shown.right]))
    target = find_model(runs, run, model, nf4=nf4)
    from qllava.evaluate.answering import choose, run_vqa, scores_result  # noqa: PLC0415
    from qllava.evaluate.ask import Condition, check_pictures, pictures_shown  # noqa: PLC0415
    from qllava.evaluate.vqa import VqaScores  # noqa: PLC0415
    from qllava.files import write_json  # noqa: PLC0415
    from qllava_cli.eval_view import vqa_table  # noqa: PLC0415

    questions = choose(found, root, limit)
    for each in conditions:
        check_pictures(pictures_shown(questions.chosen, each.value, questions.all), root)
    folder = out or target.results / f"vqa-{file.stem}"
    some = "" if len(questions.chosen) == len(found) else f"{len(found):,} there are"
    say("questions", f"{len(questions.chosen):,} of {file}", some, "--limit")
    engine = lazy_engine(target)
    scores: dict[Condition, VqaScores] = {}
    reports = []
    for each in conditions:
        with answering(f"{each.value:>8} picture", folder) as progress:
            scores[each.value], report = run_vqa(
                target, engine, questions, folder, each.value, max_new_tokens=max_new_tokens, progress=progress
            )
            reports.append(report)
    result = {
        "benchmark": "vqa",
        "file": str(file),
        "questions": questions.digest,
        "asked": len(questions.chosen),
        "model": target.name,
        "template": target.template,
        "max_new_tokens": max_new_tokens,
        "conditions": scores_result(scores),
    }
    write_json(folder / "result.json", result)
    print_result(result, vqa_table(scores), as_json=as_json)
    empty = sum(score.exact.unanswered for score in scores.values())
    if empty:
        note(f"{empty} questions have no answer and count as wrong")
    for report in reports:
        show_report(report)
    say("answers", folder)
