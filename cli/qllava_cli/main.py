"""The `qllava` command: loads only the sub-command that was asked for, and turns errors into one line."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, NamedTuple

import typer

from qllava import __version__
from qllava.errors import QllavaError
from qllava.redact import redact
from qllava_cli.console import fail, one_line, result

_DEBUG = "--debug"
_INTERRUPTED = 130
# A full disk or a read-only folder is the machine's doing, not a bug of ours.
_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE}


class Command(NamedTuple):
    """Where a command lives: `attribute` of `qllava_cli.<module>` is its function or its typer app."""

    module: str
    attribute: str
    panel: str
    help: str


_FIRST = "From a folder of pictures to a chat"
_MORE = "More"

COMMANDS: dict[str, Command] = {
    "gen-data": Command("gen_data", "gen_data", _FIRST, "Write training data for a folder of annotated pictures."),
    "train": Command("train", "train", _FIRST, "Train: --stage 1 aligns the projector, --stage 2 finetunes with LoRA."),
    "chat": Command("chat", "chat", _FIRST, "Talk about a picture with the newest trained run."),
    "data": Command("data", "data_app", _MORE, "Look at training data: what is wrong, what is trained."),
    "recipes": Command("recipes", "recipes_app", _MORE, "List, show and copy the shipped recipes."),
    "runs": Command("runs", "runs_app", _MORE, "List and show training runs."),
    "plan": Command("plan", "plan", _MORE, "Say what fits: memory by component, hours, and the cheapest changes."),
    "eval": Command("eval", "eval_app", _MORE, "Measure a run: benchmarks, and whether the picture matters."),
    "export": Command("export", "export", _MORE, "Write a run as a model that others can load."),
    "serve": Command("serve", "serve", _MORE, "Serve a run: an OpenAI-compatible API and a chat page."),
    "bench": Command("bench", "bench", _MORE, "Measure training speed and memory on this machine."),
    "doctor": Command("doctor", "doctor", _MORE, "Check the machine: card, driver, libraries, disk."),
    "demo": Command("demo", "demo", _MORE, "Run the four commands on rendered scenes and measure the result."),
}


def build_app(command: str | None = None) -> typer.Typer:
    """The typer app with `command` imported and the others listed by their one-line help.

    Importing only what runs is what keeps every `--help` fast; a command whose module is absent is not listed.
    """
    app = typer.Typer(
        name="qllava",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
    )
    app.callback()(_root)
    for name, entry in COMMANDS.items():
        module = f"qllava_cli.{entry.module}"
        if find_spec(module) is None:
            continue
        target = getattr(import_module(module), entry.attribute) if name == command else _listed_only
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, rich_help_panel=entry.panel)
        elif name == command:
            app.command(name, rich_help_panel=entry.panel)(target)
        else:
            app.command(name, help=entry.help, rich_help_panel=entry.panel)(target)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns 0, 2 for a wrong command line or recipe, 130 for Ctrl-C, 1 for the rest."""
    arguments, debug = _without_debug(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except (typer.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Exception as error:  # the last resort: a person gets a line, `--debug` the traceback
        if debug:
            sys.stderr.write(redact("".join(traceback.format_exception(error))))
        message, code = _explain(error, debug)
        if message:
            fail(redact(message))
        return code


def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the traceback of an error; works anywhere.")] = False,
) -> None:
    """Turn a language model and a vision encoder into a vision-language assistant on one card.

    gen-data --images coco/, train --stage 1, train --stage 2, chat image.jpg: in this order, in one folder.
    """


def _listed_only() -> None:
    """Stand in for a command that this command line does not run."""


def _run(arguments: list[str]) -> int:
    if not arguments:
        arguments = ["--help"]
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is None and "--version" in arguments:
        result(f"qllava {__version__}")
        return 0
    command = typer.main.get_command(build_app(name))
    returned = command.main(args=arguments, prog_name="qllava", standalone_mode=False)
    return returned if isinstance(returned, int) else 0


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take `--debug` out wherever it stands before a bare `--`, so that no command has to declare it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    before = [argument for argument in arguments[:end] if argument != _DEBUG]
    return before + list(arguments[end:]), len(before) < end


def _explain(error: Exception, debug: bool) -> tuple[str, int]:
    if isinstance(error, QllavaError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return _usage_message(error), error.exit_code
    return _unexpected_message(error, debug), 1


def _usage_message(error: typer.TyperException) -> str:
    """typer's own complaint as one line that ends with where the right spelling is listed."""
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help page, printed by now
        return ""
    message = one_line(error.format_message()).rstrip(".").replace(". Did you", "; did you")
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    return f"{message}{'' if message.endswith('?') else ';'} `{context.command_path} --help` lists what there is"


def _unexpected_message(error: Exception, debug: bool) -> str:
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; free space or choose another folder"
    hint = "" if debug else "; repeat with --debug to see where, and please report it"
    return f"{type(error).__name__}: {error} (this is a bug in qllava{hint})"


if __name__ == "__main__":
    sys.exit(main())
