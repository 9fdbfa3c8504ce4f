"""`qllava export`: a run as a model that others load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qllava.errors import UsageError
from qllava_cli.console import note, result, say

if TYPE_CHECKING:
    from qllava.export.run import Exported

FORMS = {
    "hf": "merged into one 16-bit model that stock transformers loads",
    "hf-4bit": "the run's own 4-bit codes, the adapter beside them",
    "adapter": "what was learnt alone: LoRA, projector, recipe",
    "gguf": "for llama.cpp: the language model and the mmproj file",
}


def export(
    run: Annotated[Path | None, typer.Argument(help="Run folder.", show_default="newest finished finetune run")] = None,
    to: Annotated[str, typer.Option("--to", help=f"One of {', '.join(FORMS)}.")] = "hf",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; new or empty.", show_default="exports/RUN-FORM")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    merge_base: Annotated[
        str,
        typer.Option("--merge-base", help="hf: add LoRA to the quantised weights it learnt on, or to the full ones."),
    ] = "quantised",
    llama_cpp: Annotated[
        Path | None,
        typer.Option("--llama-cpp", metavar="DIR", help="gguf: a checkout whose converter writes the language model."),
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="NAME", help="Upload to the hub as NAME, private.")
    ] = None,
) -> None:
    """Write a run as a model for others, compared with the run before it is kept.

    qllava export --to hf --out my-llava
    """
    if to not in FORMS:
        raise UsageError(f"--to {to!r} is not known; choose one of: {', '.join(FORMS)}")
    if merge_base not in ("quantised", "full"):
        raise UsageError(f"--merge-base {merge_base!r} is not known; choose quantised or full")
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415

    quiet_libraries()  # before the imports below: some libraries speak while they load
    from qllava.checkpoint.load import find_run  # noqa: PLC0415
    from qllava.plan.device import probe_devices, require_usable  # noqa: PLC0415

    found = find_run(runs, run)
    target = out or Path("exports") / f"{found.folder.name}-{to}"
    say("run", found.folder, f"{found.manifest.steps:,} steps", "--runs")
    say("form", to, FORMS[to], "--to")
    probe = probe_devices()
    require_usable(probe)
    from qllava.export.run import export as write  # noqa: PLC0415

    if llama_cpp is not None and to != "gguf":
        raise UsageError("--llama-cpp belongs to --to gguf")
    choice: Any = to
    base: Any = merge_base
    device = "cuda" if probe.kind == "cuda" else "cpu"
    done = write(found, choice, target, device=device, note=note, merge_base=base, llama_cpp=llama_cpp)
    _show(done)
    if push is not None:
        from qllava.export.push import push as upload  # noqa: PLC0415

        say("uploaded", upload(done.folder, push), "private; make it public on its page")
    result(str(done.folder))


def _show(done: Exported) -> None:
    for gate in done.gates:
        say("proof", gate)
    for line in done.lines:
        note(line)
    say("written", f"{done.folder}/", f"{done.size / 1e9:.2f} GB of weights")
    say("use it", _command(done))


def _command(done: Exported) -> str:
    """The one line that a friend needs."""
    commands = {
        "hf": f"qllava chat picture.jpg --run {done.folder}, or transformers serve {done.folder}",
        "hf-4bit": f"the four lines in {done.folder / 'README.md'}",
        "adapter": f"qllava chat picture.jpg --run {done.folder}",
        "gguf": f"llama-mtmd-cli -m {done.folder / 'model.gguf'} --mmproj {done.folder / 'mmproj.gguf'} "
        "--image picture.jpg",
    }
    return commands[done.form]
