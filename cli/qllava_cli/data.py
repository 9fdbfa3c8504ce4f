"""`qllava data`: look at training data as the model will see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qllava_cli.console import note, result, say
from qllava_cli.data_check import check
from qllava_cli.data_convert import convert_app
from qllava_cli.options import RecipeOption, SetOption
from qllava_cli.sample_view import as_texts, build_encoder, encode_sample, print_text

if TYPE_CHECKING:
    from qllava.data.encode import ChatEncoder
    from qllava.types import Conversation, Stage

data_app = typer.Typer(help="Look at training data: what is wrong, what is trained.", no_args_is_help=True)
data_app.add_typer(convert_app, name="convert")

_ALIGN_FILE = "align.json"


data_app.command()(check)


@data_app.callback()
def _data() -> None:
    """Look at training data: what is wrong, what is trained."""


@data_app.command()
def show(
    file: Annotated[str, typer.Argument(help="A data file (.json, .jsonl, .parquet) or a hub id.")],
    recipe: RecipeOption = None,
    stage: Annotated[
        int | None,
        typer.Option("--stage", min=1, max=2, help="Stage to show.", show_default="1 for align.json, else 2"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many samples.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a sample: input_ids, labels, pieces.")
    ] = False,
    assignments: SetOption = None,
) -> None:
    """Print samples as the model sees them, with the trained tokens coloured."""
    from qllava.data.formats import load_conversations  # noqa: PLC0415 - heavy; --help does not need them
    from qllava.types import STAGE_NAMES  # noqa: PLC0415
    from qllava_cli.options import resolve_recipe  # noqa: PLC0415

    table = load_conversations(file)
    chosen = resolve_recipe(recipe, assignments)
    stage_name = STAGE_NAMES[stage or (1 if Path(file).name == _ALIGN_FILE else 2)]
    encoder = build_encoder(chosen.recipe, stage_name)
    max_length = chosen.recipe.data.max_length
    samples = (table[index] for index in range(min(limit, len(table))))
    if as_json:
        for sample in samples:
            result(json.dumps(_as_object(encoder, sample, stage_name, max_length), ensure_ascii=False))
        return
    say("recipe", chosen.recipe.name, chosen.why)
    say("template", encoder.template.name, f"stage {stage_name}", "--stage")
    from rich.console import Console  # noqa: PLC0415

    for text in as_texts(encoder, samples, stage_name, max_length):
        print_text(text, Console(highlight=False))
    note(f"{min(limit, len(table))} of {len(table)} samples; --limit shows more, --json gives ids and labels")


@data_app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="Folder to write; a new one.")],
    folders: Annotated[list[Path], typer.Argument(metavar="IN...", help="Folders of `gen-data --shard i/n`.")],
) -> None:
    """Join the data folders of the shards of one run.

    qllava data merge data data-1 data-2
    """
    from qllava.datagen.merge import merge as join  # noqa: PLC0415 - --help stays light

    merged = join(out, folders)
    counts = merged.counts
    say("merged", f"{merged.folders} folders")
    say("pictures", f"{counts['pictures']:,}", f"held out {counts['held_out_pictures']:,}")
    say("captions", f"{counts['captions']:,}")
    say("instructions", f"{counts['instructions']:,}", ", ".join(f"{k} {n:,}" for k, n in counts["by_kind"].items()))
    say("rejected", f"{sum(counts['rejected'].values()):,}", f"listed in {out / 'rejected.jsonl'}")
    say("missing pictures", f"{counts['missing_pictures']:,}")
    if merged.repeated:
        say("listed by several", f"{merged.repeated:,}", "rows about the whole source, kept once")
    if not merged.images.is_dir():
        note(f"the pictures are not here: {merged.images} is no folder; `image_root` in {out / 'card.json'} names it")
    if merged.lacking:
        note(f"not among them: shard {', '.join(merged.lacking)}")
    say("written", f"{out}/", "align.json, instruct.json, heldout.jsonl, README.md, card.json")
    note("next: qllava train --stage 1" + ("" if out == Path("data") else f" --data {out / 'align.json'}"))


@data_app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="A folder that gen-data wrote.")] = Path("data"),
    out: Annotated[
        Path | None, typer.Option("--out", help="The HTML file to write.", show_default="FOLDER/gallery.html")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="At most N pictures, spread evenly.")] = 2000,
) -> None:
    """Write a page that shows the pictures with their boxes, questions and answers, rejected ones too.

    qllava data gallery data/
    """
    from qllava.report.gallery import write_gallery  # noqa: PLC0415 - imports PIL

    report = write_gallery(folder, out, limit=limit)
    why = f"of {report.of_pictures:,}, spread evenly" if report.pictures < report.of_pictures else "all of them"
    say("pictures", f"{report.pictures:,}", why, "--limit")
    if report.unreadable:
        say("not on disk", f"{report.unreadable:,}", "shown as empty frames")
    say("samples", f"{report.kept:,}", f"rejected {report.rejected:,}")
    if report.elsewhere:
        say("not shown", f"{report.elsewhere:,}", "rejections that name no picture; they are in rejected.jsonl")
    say("pages", f"{report.pages:,}", f"{report.size / 1e6:,.1f} MB")
    note("open it in a browser; arrow keys turn the pages")
    result(str(report.out))


def _as_object(encoder: ChatEncoder, sample: Conversation, stage: Stage, max_length: int) -> dict[str, Any]:
    from qllava.data.encode import SampleRejected  # noqa: PLC0415

    named = {"id": sample.id, "images": list(sample.images)}
    try:
        encoded = encode_sample(encoder, sample, stage, max_length)
    except SampleRejected as error:
        return named | {"rejected": error.reason, "message": str(error)}
    pairs = zip(encoded.input_ids, encoded.assistant_mask, strict=True)
    return named | {
        "dropped_turns": encoded.dropped_turns,
        "escaped": encoded.escaped,
        "input_ids": encoded.input_ids,
        "labels": [token if trained else -100 for token, trained in pairs],
        "pieces": encoder.decode_pieces(encoded.input_ids),
    }
