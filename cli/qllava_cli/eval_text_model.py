"""What the eval commands that ask a language model over an endpoint have in common: options, price, progress."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava_cli.console import note, say

if TYPE_CHECKING:
    from qllava.evaluate.text_model import Estimate, Replies, TextModel

INTERRUPTED = 130

BaseUrlOption = Annotated[
    str | None,
    typer.Option("--base-url", help="The server, OpenAI-compatible.", show_default="OPENAI_BASE_URL, else OpenAI"),
]
PricesOption = Annotated[
    Path | None, typer.Option("--prices", help="YAML: MODEL: {input: USD, output: USD} per million tokens.")
]
MaxCostOption = Annotated[
    float | None, typer.Option("--max-cost", metavar="USD", help="Stop before all replies cost more.")
]
MaxRequestsOption = Annotated[
    int | None, typer.Option("--max-requests", metavar="N", help="Stop after N requests of this run.")
]
ConcurrencyOption = Annotated[int, typer.Option("--concurrency", help="Requests at once.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")]


def agree(estimate: Estimate, settings: TextModel, *, yes: bool) -> None:
    """Say what asking costs, and ask before money is spent; a server on this machine needs no leave.

    Raises:
        UsageError: it costs, and nobody is there to agree.
        typer.Exit: 1, it was not agreed to.
    """
    from qllava.errors import UsageError  # noqa: PLC0415

    say(settings.role, settings.model, f"temperature {settings.temperature:g}; {estimate.endpoint}", settings.flag)
    known = f"{estimate.found:,} are answered already" if estimate.found else ""
    say("requests", f"{estimate.requests:,}", known)
    if not estimate.requests:
        return
    price = "an unknown price" if estimate.cost is None else f"about {estimate.cost:,.2f} USD"
    say("price", price, f"{estimate.prompt_tokens:,} tokens in, four characters a token", "--prices")
    free = estimate.cost == 0.0 or (estimate.cost is None and estimate.local)
    if yes or free or settings.max_cost is not None:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"{estimate.requests:,} requests to {estimate.endpoint} for {price}, and nobody to ask; "
            "add --yes or --max-cost USD"
        )
    if not typer.confirm(f"Send {estimate.requests:,} requests for {price}?", default=False, err=True):
        note("nothing was sent")
        raise typer.Exit(1)


def tell(replies: Replies) -> None:
    """What came of the asking: cost, failures, why it ended early."""
    tokens = f"{replies.usage.prompt:,} tokens in, {replies.usage.completion:,} out"
    if replies.asked.answered:
        say("cost", "unknown" if replies.cost is None else f"{replies.cost:.4f} USD", tokens)
    if replies.failed:
        reasons = list(replies.failed.values())
        note(f"{len(reasons):,} requests were not answered (the first: {reasons[0]}); the same command asks them again")
    if replies.asked.stopped:
        note(f"stopped: {replies.asked.stopped}; raise it and repeat the command to go on")
