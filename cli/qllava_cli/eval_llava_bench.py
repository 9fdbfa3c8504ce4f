"""`qllava eval llava-bench`: a judge scores our answers against reference answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava.errors import UsageError
from qllava_cli.console import note, result, say
from qllava_cli.eval_answers import AnswersOption, FirstOption, ResultsOption, answer_benchmark
from qllava_cli.eval_options import JsonOption, ModelOption, Nf4Option, RunOption, RunsOption, find_model, show_report
from qllava_cli.eval_text_model import (
    INTERRUPTED,
    BaseUrlOption,
    ConcurrencyOption,
    MaxCostOption,
    MaxRequestsOption,
    PricesOption,
    YesOption,
    agree,
    tell,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from qllava.evaluate.judge.bench import Bench
    from qllava.evaluate.target import Target


def llava_bench(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="LLaVA-Bench, COCO-90 or In-the-Wild, as published.")],
    judge: Annotated[str, typer.Option("--judge", metavar="MODEL", help="Who scores; pinned in the result.")],
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures.", show_default="DIR/images, else DIR")
    ] = None,
    run: RunOption = None,
    model: ModelOption = None,
    nf4: Nf4Option = False,
    runs: RunsOption = Path("runs"),
    answers: AnswersOption = None,
    out: ResultsOption = None,
    limit: FirstOption = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 1024,
    swap: Annotated[bool, typer.Option("--swap", help="Judge both orders of the two answers.")] = False,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Judge N times; shows the spread.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="Of the judge; LLaVA used 0.2.")] = 0.2,
    base_url: BaseUrlOption = None,
    prices: PricesOption = None,
    max_cost: MaxCostOption = None,
    max_requests: MaxRequestsOption = None,
    concurrency: ConcurrencyOption = 16,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Answer LLaVA-Bench and have a judge score the answers 1-10 beside the reference's.

    Relative score: mean of ours / mean of the reference x 100, by category and overall. Judgements that fail or cannot
    be read are in no score, and counted. Verdicts are kept: a second run asks nothing again.
    """
    from qllava.datagen.asking import Policy  # noqa: PLC0415 - --help stays light
    from qllava.evaluate.judge.bench import read_bench  # noqa: PLC0415
    from qllava.evaluate.judge.report import write_judge_report  # noqa: PLC0415
    from qllava.evaluate.judge.run import VERDICTS, judge_requests, review_rows  # noqa: PLC0415
    from qllava.evaluate.judge.run import judge as have_judged  # noqa: PLC0415
    from qllava.evaluate.judge.table import bench_table  # noqa: PLC0415
    from qllava.evaluate.text_model import TextModel, check, estimate  # noqa: PLC0415
    from qllava.files import write_json  # noqa: PLC0415
    from qllava_cli.gen_data_view import asking_progress  # noqa: PLC0415

    if answers is not None and (run is not None or model is not None):
        raise UsageError("--answers scores a file; --run and --model answer anew: give one of them")
    settings = TextModel(
        judge,
        base_url,
        temperature=temperature,
        prices=prices,
        max_cost=max_cost,
        max_requests=max_requests,
        policy=Policy(concurrency=concurrency),
    )
    check(settings)
    bench = read_bench(folder, images)
    say("benchmark", folder, f"{bench.layout} layout, {len(bench.items):,} questions")
    name, given, where = _answers(
        bench, lambda: find_model(runs, run, model, nf4=nf4), answers, out, limit, max_new_tokens
    )
    requests = judge_requests(bench, given, settings, swap=swap, repeats=repeats)
    before = estimate(list({r.key: r for r in requests.values()}.values()), settings, where / VERDICTS)
    agree(before, settings, yes=yes)
    with asking_progress(before.requests) as view:
        judged = have_judged(bench, given, settings, where, swap=swap, repeats=repeats, view=view, note=note)
    told = {"benchmark": bench.layout, "questions": bench.digest, "model": name, **judged.to_dict()}
    write_json(where / "result.json", told)
    (where / "reviews.jsonl").write_text("".join(f"{row}\n" for row in review_rows(judged)), encoding="utf-8")
    say("written", where, "result.json, reviews.jsonl, verdicts.jsonl")
    show_report(write_judge_report(where / "report.html", bench, given, judged, name))
    if judged.replies is not None:
        tell(judged.replies)
        if judged.replies.asked.error is not None:
            raise judged.replies.asked.error
    result(json.dumps(told, ensure_ascii=False) if as_json else bench_table(judged, bench.layout, name))
    if judged.replies is not None and judged.replies.asked.interrupted:
        note("interrupted; the same command continues")
        raise typer.Exit(INTERRUPTED)


def _answers(
    bench: Bench,
    find: Callable[[], Target],
    answers: Path | None,
    out: Path | None,
    limit: int | None,
    max_new_tokens: int,
) -> tuple[str, dict[str, str], Path]:
    """(name of the model, answers by question id, folder of results)."""
    from qllava.evaluate.judge.bench import picture_of, read_answers  # noqa: PLC0415
    from qllava.evaluate.questions import Question  # noqa: PLC0415

    if answers is not None:
        beyond = set() if limit is None else {item.id for item in bench.items[limit:]}
        kept = {question: text for question, text in read_answers(answers).items() if question not in beyond}
        return answers.stem, kept, out or answers.parent / f"{answers.stem}-llava-bench"
    root = bench.image_root
    every = [Question(i.id, str(picture_of(bench, i).relative_to(root)), i.question, ("-",)) for i in bench.items]
    target = find()
    name = f"llava-bench-{bench.layout}"
    where = out or target.results / name
    given = answer_benchmark(target, name, every[:limit], every, root, where, {}, max_new_tokens=max_new_tokens)
    return target.name, given, where
