"""gen-data with a language model: what it will cost, whether to go on, the run, what came of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from qllava_cli.console import console, note, say
from qllava_cli.gen_data_view import asking_progress, summary

if TYPE_CHECKING:
    from qllava.datagen.model_run import Estimate, ModelJob, ModelRun, Result

_INTERRUPTED = 130


def with_model(job: ModelJob, *, why: str, dry_run: bool, yes: bool) -> None:
    """Estimate, ask, run, sum up.

    Raises:
        TeacherError: the teacher is not there or refuses; what was answered is written first.
        UsageError: nobody is there to agree to the cost.
        typer.Exit: 130 after Ctrl-C, 1 where the cost was not agreed to.
    """
    from qllava.datagen.model_run import ModelRun  # noqa: PLC0415

    run = ModelRun(job)
    say("teacher", job.teacher, f"{why}; {run.endpoint.name}", "--teacher")
    say("model", run.model, "as asked" if job.model else "pinned; sees, and is cheap", "--model")
    say("asked with", f"the picture, {job.context}" if job.see else job.context, flag="--see, --context")
    estimate = run.estimate()
    _say_estimate(run, estimate)
    if dry_run:
        unpacked = run.intake.unpacked
        written = "nothing written" if unpacked is None else f"nothing written but the pictures in {unpacked}"
        note(f"dry run: nothing was sent and {written}")
        return
    if estimate.requests:
        _agree(run, estimate, yes=yes)
    with asking_progress(estimate.requests) as view:
        result = run.run(view, note)
    _finish(run, result)


def _say_estimate(run: ModelRun, estimate: Estimate) -> None:
    say("pictures", f"{estimate.pictures:,} of {estimate.whole_pictures:,}", "chosen by hash", "--limit")
    found = f"; {estimate.found:,} are answered already" if estimate.found else ""
    mix = ", ".join(f"{kind} {weight:g}" for kind, weight in run.mix.items())
    say("requests", f"{estimate.requests:,}", f"{mix}{found}", "--mix")
    say(
        "tokens",
        f"{estimate.prompt_tokens:,} in, {estimate.answer_tokens:,} out",
        "estimated from the prompts, four characters a token",
    )
    if estimate.cost is None or estimate.whole_cost is None:
        say("price", "unknown", f"{run.model} is in no price list, so tokens alone are counted", "--prices")
        return
    batch = "; a batch costs less" if run.batched else ""
    say("price of this run", f"about {estimate.cost:,.2f} USD", f"by the listed prices{batch}", "--prices")
    whole = f"{estimate.whole_pictures:,} pictures, {estimate.whole_requests:,} requests"
    say("price of the whole folder", f"about {estimate.whole_cost:,.2f} USD", whole)


def _agree(run: ModelRun, estimate: Estimate, *, yes: bool) -> None:
    """Ask before money is spent; a server on this machine without a price needs no leave."""
    from qllava.errors import UsageError  # noqa: PLC0415

    free = estimate.cost == 0.0 or (estimate.cost is None and run.endpoint.local)
    if yes or free or run.job.max_cost is not None:
        return
    price = "an unknown price" if estimate.cost is None else f"about {estimate.cost:,.2f} USD"
    if not sys.stdin.isatty():
        raise UsageError(
            f"{estimate.requests:,} requests to {run.endpoint.name} for {price}, and nobody to ask; "
            "add --yes, --max-cost USD, or --teacher template"
        )
    if not typer.confirm(f"Send {estimate.requests:,} requests for {price}?", default=False, err=True):
        note("nothing was sent; --limit makes it cheaper, --teacher template costs nothing")
        raise typer.Exit(1)


def _finish(run: ModelRun, result: Result) -> None:
    asked, budget = result.asked, result.budget
    if budget.perhaps:
        note(f"up to {budget.perhaps:.4f} USD more may be billed for requests whose answer was lost")
    if result.report is None:
        if asked.error is None:
            note("nothing was answered, nothing is written; the same command starts again")
    else:
        tokens = f"{result.report.usage.prompt:,} tokens in, {result.report.usage.completion:,} out"
        cost = result.report.cost_usd
        known = ("unknown", f"{tokens}; no price for {run.model}") if cost is None else (f"{cost:.4f} USD", tokens)
        summary(result.report, known)
    if asked.error is not None:
        raise asked.error
    if asked.stopped:
        note(f"stopped: {asked.stopped}; raise it and repeat the command to go on")
    if asked.interrupted:
        console().print("interrupted; the same command continues", soft_wrap=True)
        raise typer.Exit(_INTERRUPTED)
