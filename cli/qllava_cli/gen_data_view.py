"""What gen-data shows while it works and when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qllava_cli.console import console, note, say

if TYPE_CHECKING:
    from qllava.datagen.asking import Asked, View
    from qllava.datagen.card import Report
    from qllava.datagen.money import Budget


def summary(report: Report, cost: tuple[str, str]) -> None:
    """The counts of a data folder, its cost, and the next command."""
    say("source", report.source, flag="--annotations")
    if report.unpacked is not None:
        say("unpacked to", f"{report.unpacked}/", "the pictures stay there, training reads them", "--unpack-to")
    share = "" if report.shard is None else f"shard {report.shard}; "
    say("pictures", f"{report.pictures:,}", f"{share}held out {report.held_out:,}: {report.held_out_rule}")
    balanced = "" if report.target is None else f", concepts balanced, at most {report.target:,} in all"
    say("captions", f"{report.captions:,}", f"one a picture{balanced}", "" if report.target is None else "--target")
    say("instructions", f"{sum(report.by_kind.values()):,}", _counts(report.by_kind))
    if report.by_type:
        say("types", _counts(report.by_type))
    say("held-out questions", f"{report.held_out_questions:,}")
    say("cost", *cost)
    rejected = sum(report.rejected.values())
    where = f"listed in {report.out / 'rejected.jsonl'}"
    say("rejected", f"{rejected:,}", "; ".join(filter(None, (_counts(report.rejected), where if rejected else ""))))
    say("missing pictures", f"{report.missing:,}", where if report.missing else "every listed one is on disk")
    for split, listed in report.absent_splits.items():
        say("split", split, f"not on disk: none of its {listed:,} pictures; {where}")
    say("written", f"{report.out}/", "align.json, instruct.json, heldout.jsonl, README.md, card.json")
    if report.unasked:
        note(f"{report.unasked:,} samples were not asked for; the same command goes on")
        return
    if report.shard is not None:
        note("next: the other shards, then qllava data merge data FOLDER...")
        return
    if not sum(report.by_kind.values()):
        note(
            "no instruction samples: without boxes nothing bears a caption out, so it makes caption pairs alone; "
            "for stage 2 add --teacher openai here, or train it on other data with --data FILE"
        )
    train = "qllava train --stage 1" + ("" if report.out == Path("data") else f" --data {report.out / 'align.json'}")
    note(f"next: {train}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


@contextmanager
def picture_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while pictures are worked on; gone when done, absent without a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as bar:
        task = bar.add_task("reading annotations", total=None)

        def update(done: int, total: int) -> None:
            # A redraw per picture would cost more than the picture.
            if done % 64 == 0 or done in (1, total):
                bar.update(task, completed=done, total=total, description="writing questions")

        yield update


@contextmanager
def asking_progress(total: int) -> Iterator[View]:
    """Answers of `total`, failures and live spend; one line in a while where there is no terminal."""
    import time  # noqa: PLC0415

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    last = time.monotonic()
    live = console().is_terminal
    with Progress(
        *columns, TextColumn("{task.fields[spent]}"), console=console(), transient=True, disable=not live
    ) as bar:
        task = bar.add_task("asking", total=total, spent="")

        def view(asked: Asked, budget: Budget) -> None:
            nonlocal last
            now = time.monotonic()
            done = asked.answered + len(asked.failed)
            if now - last < (0.1 if live else 15.0) and done < total:
                return
            last = now
            if live:
                bar.update(task, completed=done, spent=_spent(asked, budget))
            else:
                note(f"asked {done:,} of {total:,}; {_spent(asked, budget)}")

        yield view


def _spent(asked: Asked, budget: Budget) -> str:
    tokens = f"{budget.usage.prompt + budget.usage.completion:,} tokens"
    money = f"{budget.spent:.2f} USD, {tokens}" if budget.priced else tokens
    trouble = [f"{asked.retried:,} repeated"] if asked.retried else []
    trouble += [f"{len(asked.failed):,} failed"] if asked.failed else []
    return ", ".join([money, *trouble])
