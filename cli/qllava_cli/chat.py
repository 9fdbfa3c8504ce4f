"""`qllava chat`: talk about a picture with a trained run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava.errors import QllavaError, UsageError
from qllava_cli.answering_model import describe_model, find_model, load_model
from qllava_cli.console import console, fail, note, say

if TYPE_CHECKING:
    from qllava.infer.chat_session import ChatSession
    from qllava.infer.sampling import Sampling

_PROMPT = "> "


def chat(
    image: Annotated[Path | None, typer.Argument(help="The picture to talk about.", show_default="none")] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="A run's folder, or an export's.", show_default="newest finished finetune run"),
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    prompt: Annotated[str | None, typer.Option("--prompt", help="Answer this once and exit.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token, 1 samples.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Sample from this share of the probability.")] = 1.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Longest answer.")] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Of the sampling.")] = 0,
    web: Annotated[bool, typer.Option("--web", help="Talk in the browser, on a page of this machine.")] = False,
) -> None:
    """Talk about a picture with the newest trained run.

    Without --prompt, questions come from the terminal, or one a line from a pipe; answers go to stdout. In the chat:
    /image PATH, /reset, /exit. Ctrl-C stops an answer, Ctrl-D leaves.
    """
    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt is empty; give a question")
    if prompt is not None and web:
        raise UsageError("--prompt answers in the terminal; leave it out with --web")
    if image is not None:
        check_picture(image)
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415 - all below loads torch

    quiet_libraries()
    from qllava.data.images import open_image  # noqa: PLC0415
    from qllava.infer.chat_session import ChatSession  # noqa: PLC0415
    from qllava.infer.engine import Engine  # noqa: PLC0415
    from qllava.infer.sampling import Sampling  # noqa: PLC0415

    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_tokens, seed=seed)
    picture = open_image(image) if image is not None else None
    if web:
        from qllava_cli.serve import open_page  # noqa: PLC0415 - needs the extra `page`

        open_page(find_model(runs, run), sampling, image)
        return
    target = find_model(runs, run)
    loaded = load_model(target)
    describe_model(target, loaded)
    _describe(sampling, image)
    session = ChatSession(Engine(loaded), sampling, picture)
    if prompt is not None:
        _answer(session, prompt)
    elif sys.stdin.isatty():
        _converse(session)
    else:
        _answer_lines(session)


def check_picture(path: Path) -> None:
    """Refuse a picture that is not there, before anything is loaded.

    Raises:
        UsageError: no such file.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"image {path} {what}; give the path of a picture")


def _describe(sampling: Sampling, image: Path | None) -> None:
    greedy = sampling.temperature == 0.0
    how = (
        "greedy" if greedy else f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, seed {sampling.seed}"
    )
    say("sampling", f"{how}, at most {sampling.max_new_tokens} tokens", "", "--temperature, --max-tokens")
    if image is None:
        note("no picture: the answers come from the language model alone; `/image PATH` shows it one")
    else:
        say("picture", image)


def _answer(session: ChatSession, question: str) -> None:
    """Stream one answer to stdout, ended by a line break."""
    try:
        for piece in session.ask(question):
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


def _answer_lines(session: ChatSession) -> None:
    """One question a line, one conversation, until the pipe ends; the first error ends it."""
    for line in sys.stdin:
        question = line.strip()
        if question and not _obey(session, question):
            return


def _converse(session: ChatSession) -> None:
    """Prompt, answer, until /exit or Ctrl-D; errors are told and the chat goes on."""
    import contextlib  # noqa: PLC0415

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - editing and history for `input`
    note("/image PATH, /reset, /exit; Ctrl-C stops an answer, Ctrl-D leaves")
    for question in _typed():
        try:
            if not _obey(session, question):
                return
        except KeyboardInterrupt:
            note("stopped")
        except QllavaError as error:
            fail(str(error))


def _typed() -> Iterator[str]:
    """Questions from the terminal; Ctrl-C drops the line, Ctrl-D ends."""
    while True:
        try:
            # `input` would write its prompt into a stdout that goes to a file.
            if not sys.stdout.isatty():
                console().print(_PROMPT, end="")
            question = input(_PROMPT if sys.stdout.isatty() else "").strip()
        except KeyboardInterrupt:
            console().print()
            continue
        except EOFError:
            console().print()
            return
        if question:
            yield question


def _obey(session: ChatSession, line: str) -> bool:
    """Carry out a command or answer a question; False ends the chat."""
    from qllava.data.images import open_image  # noqa: PLC0415
    from qllava.infer.chat_session import COMMANDS, parse_command  # noqa: PLC0415

    command = parse_command(line)
    if command is None:
        _answer(session, line)
    elif command.name == "exit":
        return False
    elif command.name == "reset":
        session.reset()
        note("started anew; the picture is the same")
    elif command.name == "image":
        path = Path(command.argument).expanduser()
        check_picture(path)
        session.show(open_image(path))
        note(f"started anew with {path}")
    else:
        note(COMMANDS)
    return True
