"""`qllava eval scienceqa`: the ScienceQA table with every published column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qllava.errors import UsageError
from qllava_cli.console import note, result, say
from qllava_cli.eval_answers import AnswersOption, FirstOption, ResultsOption, answer_benchmark
from qllava_cli.eval_options import JsonOption, ModelOption, Nf4Option, RunOption, RunsOption, find_model, show_report
from qllava_cli.eval_text_model import (
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

    from qllava.evaluate.science_qa.ensemble import Ensemble, Mode
    from qllava.evaluate.science_qa.problems import Problem, ScienceQA
    from qllava.evaluate.target import Target
    from qllava.evaluate.text_model import TextModel


def scienceqa(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="problems.json, pid_splits.json and images/.")],
    split: Annotated[str, typer.Option("--split", help="Of pid_splits.json.")] = "test",
    style: Annotated[
        str, typer.Option("--format", help="How to ask: qcm-lea, qcm-lepa; cqm-a for a model not trained on it.")
    ] = "qcm-lepa",
    run: RunOption = None,
    model: ModelOption = None,
    nf4: Nf4Option = False,
    runs: RunsOption = Path("runs"),
    answers: AnswersOption = None,
    out: ResultsOption = None,
    limit: FirstOption = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 1024,
    ensemble: Annotated[
        str | None, typer.Option("--ensemble", help="With a language model: complement or judge.")
    ] = None,
    helper: Annotated[str | None, typer.Option("--helper", metavar="MODEL", help="That language model.")] = None,
    base_url: BaseUrlOption = None,
    prices: PricesOption = None,
    max_cost: MaxCostOption = None,
    max_requests: MaxRequestsOption = None,
    concurrency: ConcurrencyOption = 16,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Answer ScienceQA and print NAT SOC LAN TXT IMG NO G1-6 G7-12 Avg under the published rows.

    An answer that names no choice, or several, counts as wrong and is counted by reason.
    """
    from qllava.evaluate.science_qa.ensemble import parse_mode  # noqa: PLC0415 - --help stays light
    from qllava.evaluate.science_qa.problems import read_science_qa  # noqa: PLC0415
    from qllava.evaluate.science_qa.prompts import parse_format  # noqa: PLC0415
    from qllava.evaluate.science_qa.report import write_science_report  # noqa: PLC0415
    from qllava.evaluate.science_qa.score import score_answers, score_choices  # noqa: PLC0415
    from qllava.evaluate.science_qa.table import table  # noqa: PLC0415
    from qllava.files import write_json  # noqa: PLC0415

    form = parse_format(style)
    mode = None if ensemble is None else parse_mode(ensemble)
    if mode is not None and helper is None:
        raise UsageError(f"--ensemble {mode} needs a language model; name it with --helper MODEL")
    if mode is None and helper is not None:
        raise UsageError(f"--helper {helper} does nothing alone; add --ensemble complement or judge")
    if answers is not None and (run is not None or model is not None):
        raise UsageError("--answers scores a file; --run and --model answer anew: give one of them")
    science = read_science_qa(folder, split)
    problems = science.problems[:limit]
    name, given, where = _answers(
        science, problems, form, lambda: find_model(runs, run, model, nf4=nf4), answers, out, max_new_tokens
    )
    scores = {name: score_answers(given, problems)}
    told: dict[str, Any] = {"split": split, "format": form, "problems": len(problems), "model": name}
    if mode is not None and helper is not None:
        settings = _helper(helper, base_url, prices, max_cost, max_requests, concurrency)
        done = _combine(folder, problems, given, mode, settings, where, yes=yes)
        scores[f"  {helper}"] = score_choices(done.theirs, problems)
        scores[f"  with {helper}, {mode}"] = score_choices(done.chosen, problems)
        told |= {"ensemble": {"mode": mode, "helper": helper, **done.to_dict()}}
        note(f"{helper} named no choice in {done.filled:,} problems, differed from ours in {done.differed:,}")
    told |= {"scores": {key.strip(): value.to_dict() for key, value in scores.items()}}
    where.mkdir(parents=True, exist_ok=True)
    write_json(where / "result.json", told)
    page = write_science_report(where / "report.html", problems, given, image_root=science.image_root, model=name)
    failed = scores[name]
    if failed.failed:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in failed.failures.items() if count)
        note(f"{failed.failed:,} of {len(problems):,} answers name no choice and count as wrong: {reasons}")
    say("written", where / "result.json")
    show_report(page)
    result(json.dumps(told, ensure_ascii=False) if as_json else table(scores))


def _answers(
    science: ScienceQA,
    problems: tuple[Problem, ...],
    form: Any,
    find: Callable[[], Target],
    answers: Path | None,
    out: Path | None,
    max_new_tokens: int,
) -> tuple[str, dict[str, str], Path]:
    """(name of the model, answers by problem id, folder of results)."""
    from qllava.evaluate.judge.bench import read_answers  # noqa: PLC0415
    from qllava.evaluate.questions import Question  # noqa: PLC0415
    from qllava.evaluate.science_qa.convert import require_pictures  # noqa: PLC0415
    from qllava.evaluate.science_qa.prompts import question_text  # noqa: PLC0415

    if answers is not None:
        beyond = {problem.id for problem in science.problems[len(problems) :]}
        kept = {identity: text for identity, text in read_answers(answers).items() if identity not in beyond}
        return answers.stem, kept, out or answers.parent / f"{answers.stem}-scienceqa"
    require_pictures(problems, science.image_root)
    target = find()
    every = [Question(p.id, p.image, question_text(p, form), (p.letters[p.answer],)) for p in science.problems]
    where = out or target.results / "scienceqa"
    settings = {"split": science.split, "format": form}
    given = answer_benchmark(
        target,
        "scienceqa",
        every[: len(problems)],
        every,
        science.image_root,
        where,
        settings,
        max_new_tokens=max_new_tokens,
    )
    return target.name, given, where


def _helper(
    model: str,
    base_url: str | None,
    prices: Path | None,
    max_cost: float | None,
    max_requests: int | None,
    concurrency: int,
) -> TextModel:
    from qllava.datagen.asking import Policy  # noqa: PLC0415
    from qllava.evaluate.text_model import TextModel  # noqa: PLC0415

    return TextModel(
        model,
        base_url,
        role="helper",
        flag="--helper",
        prices=prices,
        max_cost=max_cost,
        max_requests=max_requests,
        policy=Policy(concurrency=concurrency),
    )


def _combine(
    folder: Path,
    problems: tuple[Problem, ...],
    answers: dict[str, str],
    mode: Mode,
    settings: TextModel,
    out: Path,
    *,
    yes: bool,
) -> Ensemble:
    from qllava.errors import DataError  # noqa: PLC0415
    from qllava.evaluate.science_qa.ensemble import REPLIES, combine, first_requests, pick_shots  # noqa: PLC0415
    from qllava.evaluate.science_qa.problems import read_science_qa  # noqa: PLC0415
    from qllava.evaluate.text_model import estimate  # noqa: PLC0415
    from qllava_cli.gen_data_view import asking_progress  # noqa: PLC0415

    try:
        shots = pick_shots(read_science_qa(folder, "train").problems)
    except (DataError, UsageError):
        shots = []
    say("worked examples", len(shots), "training problems without a picture" if shots else "no training split here")
    before = estimate(list(first_requests(problems, shots, settings).values()), settings, out / REPLIES)
    agree(before, settings, yes=yes)
    if mode == "judge":
        note("where both differ it is asked once more; those requests are not in the price")
    with asking_progress(before.requests) as view:
        done = combine(problems, answers, mode, settings, out, shots=shots, view=view, note=note)
    for replies in done.replies:
        tell(replies)
    return done
