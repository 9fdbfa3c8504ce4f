"""`qllava data check`: what is wrong with a data set, before a night of training finds out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava_cli.console import console, note, one_line, result, say
from qllava_cli.options import MOST_BAD, MaxBadOption, RecipeOption, SetOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from qllava.data.findings import Finding, Findings
    from qllava.types import Stage

_ALIGN_FILE = "align.json"
_BAR = 40


def check(
    data: Annotated[str, typer.Argument(help="A data file, a folder of gen-data, or a hub id.")],
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder the samples' image names are relative to.")
    ] = None,
    recipe: RecipeOption = None,
    stage: Annotated[
        int | None,
        typer.Option("--stage", min=1, max=2, help="Stage to check for.", show_default="1 for align.json, else 2"),
    ] = None,
    fix: Annotated[
        Path | None, typer.Option("--fix", metavar="OUT", help="Write the clean samples there, in the same format.")
    ] = None,
    max_bad: MaxBadOption = MOST_BAD,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Samples listed for each reason.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Everything found, as one JSON object.")] = False,
    assignments: SetOption = None,
) -> int:
    """Check every sample and picture; list what is bad, and write the rest with --fix.

    qllava data check data/instruct.json --fix data/clean.json

    The exit code is 1 where `train` would refuse the data, unless --fix wrote a clean set.
    """
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415

    quiet_libraries()  # before the imports below: some libraries speak while they load
    from qllava.data.check import held_out_images  # noqa: PLC0415 - heavy; --help does not need them
    from qllava.data.check_cache import cached_check  # noqa: PLC0415
    from qllava.data.clean import check_out, write_clean  # noqa: PLC0415
    from qllava.data.formats import load_conversations  # noqa: PLC0415
    from qllava.model.embedded import cache_dir  # noqa: PLC0415
    from qllava.train.request import find_data  # noqa: PLC0415
    from qllava.train.samples import HELD_OUT  # noqa: PLC0415
    from qllava.types import STAGE_NAMES  # noqa: PLC0415
    from qllava_cli.options import resolve_recipe  # noqa: PLC0415
    from qllava_cli.sample_view import build_encoder  # noqa: PLC0415

    name = STAGE_NAMES[stage or (1 if Path(data).name == _ALIGN_FILE else 2)]
    found = find_data(data, stage=name, images=images)
    table = load_conversations(found.path, image_root=found.image_root, strict=False)
    if fix is not None:
        check_out(table, fix)
    chosen = resolve_recipe(recipe, assignments)
    encoder = build_encoder(chosen.recipe, name)
    max_length = chosen.recipe.data.max_length
    local = Path(found.path)
    say("data", found.path, f"{len(table):,} samples")
    say("images", found.image_root, "", "--images")
    say("recipe", chosen.recipe.name, chosen.why, "--recipe")
    say("stage", name, f"template {encoder.template.name}, at most {max_length} tokens", "--stage")
    with _Progress() as progress:
        findings = cached_check(
            table,
            encoder,
            digest=found.digest,
            cache=cache_dir() / "checks" if local.is_file() else None,
            image_root=found.image_root,
            max_length=max_length,
            needs_image=name == "align",
            held_out=held_out_images(local.parent / HELD_OUT),
            thorough=True,
            progress=progress.tell,
        )
    if as_json:
        result(json.dumps({"source": found.path, "bad_share": findings.bad_share, **findings.to_dict()}))
    else:
        _print_findings(findings, max_length, limit)
    if fix is not None:
        cleaned = write_clean(table, findings, fix)
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in cleaned.left_out.items()) or "nothing left out"
        say("written", fix, f"{cleaned.kept:,} samples; {left_out}")
        note(f"next: qllava train --stage {1 if name == 'align' else 2} --data {fix} --images {found.image_root}")
    verdict = _verdict(findings, max_bad, name)
    return verdict if fix is None else 0


def _verdict(findings: Findings, max_bad: float, stage: Stage) -> int:
    good = findings.rows - len(findings.bad) - findings.text_only
    if good and findings.tolerable(max_bad):
        why = "none is bad" if not findings.bad else f"{findings.bad_share:.2%} bad, they are left out"
        say("verdict", f"can be trained on in stage {1 if stage == 'align' else 2}", why, "--max-bad")
        return 0
    say("verdict", "training would refuse it", f"{findings.bad_share:.2%} bad, more than {max_bad:.2%}", "--max-bad")
    return 1


def _print_findings(findings: Findings, max_length: int, limit: int) -> None:
    from rich.console import Console  # noqa: PLC0415

    from qllava.data.findings import DOUBTS, REASONS  # noqa: PLC0415

    out = Console(highlight=False)
    out.print(_table("Cannot be trained on", REASONS, dict(findings.reasons.most_common())))
    _list(findings.bad, limit, out)
    if findings.doubts:
        out.print(_table("Worth a look; trained on", DOUBTS, findings.doubts))
        _list(findings.doubtful, limit, out)
    if findings.lengths and findings.tokenized:
        out.print(_histogram(findings, max_length))
    if findings.text_only:
        note(f"{findings.text_only:,} samples without a picture are left out of stage 1")
    note(f"{findings.pictures:,} pictures, {findings.decoded:,} decoded; {findings.tokenized:,} samples tokenized")


def _table(title: str, sentences: dict[str, str], counts: dict[str, int]) -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("reason", no_wrap=True)
    table.add_column("number", justify="right", no_wrap=True)
    table.add_column("what it means")
    for reason, count in counts.items():
        table.add_row(reason, f"{count:,}", sentences[reason])
    if not counts:
        table.add_row("-", "0", "nothing found")
    return table


def _list(found: Sequence[Finding], limit: int, out: Console) -> None:
    """The first of each reason, a line each, uncut: the fix stands at its end."""
    listed: dict[str, int] = {}
    for finding in found:
        listed[finding.reason] = listed.get(finding.reason, 0) + 1
        if listed[finding.reason] <= limit:
            line = f"row {finding.row} ({finding.id}) {finding.reason}: {finding.message}"
            out.print(one_line(line), markup=False, soft_wrap=True)
    hidden = sum(max(0, count - limit) for count in listed.values())
    if hidden:
        note(f"{hidden:,} more; --limit lists them, --json all")


def _histogram(findings: Findings, max_length: int) -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(
        title=f"Tokens, longest {findings.longest:,} of {max_length:,}", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("up to", justify="right", no_wrap=True)
    table.add_column("samples", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    most = max(count for _, count in findings.lengths) or 1
    for edge, count in findings.lengths:
        table.add_row(f"{edge:,}", f"{count:,}", "#" * -(-count * _BAR // most))
    return table


class _Progress:
    """A bar on stderr while samples and pictures are looked at; nothing where there is no terminal."""

    def __enter__(self) -> _Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, console=console(), transient=True, disable=not console().is_terminal)
        self._tasks = {what: self._bar.add_task(f"{what:>8}", total=None) for what in ("samples", "pictures")}
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def tell(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._tasks[what], completed=done, total=total)
