"""`qllava eval ask`: our own pictures and prompts, models side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qllava.errors import UsageError
from qllava_cli.console import result, say
from qllava_cli.eval_options import (
    JsonOption,
    ModelOption,
    Nf4Option,
    OutOption,
    RunOption,
    RunsOption,
    TokensOption,
    answering,
    find_model,
    lazy_engine,
    show_report,
    show_target,
)


def ask(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Your pictures.")],
    prompts: Annotated[Path, typer.Option("--prompts", help="A text file, one prompt a line.")],
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="RUN|HUB_ID|DIR", help="Another model beside it; repeatable."),
    ] = None,
    run: RunOption = None,
    model: ModelOption = None,
    nf4: Nf4Option = False,
    max_new_tokens: TokensOption = 256,
    out: OutOption = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Ask every prompt about every picture and write answers.html, one column a model.

    Answers are kept as they come; the same command asks only what is missing.
    """
    from qllava.evaluate.own_pictures import picture_questions, read_prompts, write_own_pictures  # noqa: PLC0415

    questions = picture_questions(folder, read_prompts(prompts))
    first = find_model(runs, run, model, nf4=nf4)
    from qllava.evaluate.answer_file import AnswerFile  # noqa: PLC0415
    from qllava.evaluate.answering import ask_missing, choose  # noqa: PLC0415
    from qllava.evaluate.target import any_target, slug  # noqa: PLC0415

    # All are found before the first is loaded.
    targets = [first, *(any_target(other) for other in against or [])]
    for target in targets[1:]:
        show_target(target)
    if len({target.name for target in targets}) < len(targets):
        raise UsageError("--against names a model that is asked already; name each one once")
    chosen = choose(questions, folder)
    place = out or first.results / f"ask-{slug(folder.resolve().name)}"
    answers: dict[str, dict[str, str]] = {}
    for target in targets:
        heading = target.heading("ask", chosen.digest, {"max_new_tokens": max_new_tokens, "sampling": "greedy"})
        path = place / ("answers.jsonl" if target is first else f"answers-{slug(target.name)}.jsonl")
        # A model is let go before the next is loaded: two seldom fit.
        with answering(target.name, path) as progress, AnswerFile(path, heading) as file:
            answers[target.name] = ask_missing(
                lazy_engine(target), chosen, file, max_new_tokens=max_new_tokens, progress=progress
            )
    report = write_own_pictures(place / "answers.html", questions, answers, folder)
    if as_json:
        rows = [
            {"image": q.image, "prompt": q.question, "answers": {name: said[q.id] for name, said in answers.items()}}
            for q in questions
        ]
        result(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        result(str(report.out))
    show_report(report)
    say("answers", place, f"{len(questions)} a model", "--out")
