"""`qllava serve`: an OpenAI-compatible API over a trained run, and a page to talk to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qllava.errors import UsageError
from qllava_cli.answering_model import describe_model, find_model, load_model
from qllava_cli.console import note, say

if TYPE_CHECKING:
    import socket

    from qllava.evaluate.target import Target
    from qllava.infer.sampling import Sampling
    from qllava.serve.app import Settings

_LOOPBACK = "127.0.0.1"
# What the extras bring.
_SERVER = ("starlette", "uvicorn")
_PAGE = ("gradio",)


def serve(
    run: Annotated[
        Path | None, typer.Argument(help="A run's folder, or an export's.", show_default="newest finished finetune run")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    host: Annotated[str, typer.Option("--host", help="Another than this machine's own needs a key.")] = _LOOPBACK,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", metavar="NAME", help="Variable that holds the key clients must send.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Id of the model.", show_default="the run's name")] = None,
    allow_remote_images: Annotated[
        bool, typer.Option("--allow-remote-images", help="Fetch pictures given by address, from public hosts only.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, max=512, help="Answers under way at a time.")] = 16,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait; more get a 429.")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", min=1, metavar="SECONDS", help="For one request.")] = 300.0,
    max_request: Annotated[int, typer.Option("--max-request", min=1, metavar="MB", help="Size of one request.")] = 20,
    grace: Annotated[
        float, typer.Option("--grace", min=0, metavar="SECONDS", help="To finish answers after Ctrl-C or SIGTERM.")
    ] = 30.0,
    temperature: Annotated[float, typer.Option("--temperature", help="Where a request gives none.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Where a request gives none.")] = 1.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Where a request gives none.")] = 512,
    page: Annotated[
        bool | None,
        typer.Option("--page/--no-page", help="A chat page at /.", show_default="where qllava[page] is installed"),
    ] = None,
) -> None:
    """Serve a run: /v1/chat/completions as OpenAI's clients speak it, and a chat page at /.

    Pictures come as data URLs. Ctrl-C ends it once the answers under way are complete.
    """
    _require("serving", _SERVER, "serve")
    if page is None:
        page = _missing(_PAGE) == []
    elif page:
        _require("the chat page", _PAGE, "page")
    key = _read_key(api_key_env)
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415 - all below loads torch

    quiet_libraries()
    from qllava.infer.sampling import Sampling  # noqa: PLC0415
    from qllava.serve.app import Settings  # noqa: PLC0415
    from qllava.serve.examples import find_examples  # noqa: PLC0415
    from qllava.serve.run import check_address, listen  # noqa: PLC0415

    loopback = check_address(host, key)
    target = find_model(runs, run)
    settings = Settings(
        model=name or Path(target.name).resolve().name,
        key=key,
        loopback=loopback,
        rows=batch,
        queue=queue,
        remote_images=allow_remote_images,
        body_bytes=max_request << 20,
        seconds=timeout,
        sampling=Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_tokens),
        page=page,
        examples=find_examples(_data(target)) if page else (),
    )
    listening = listen(host, port)
    _serve(target, listening, settings, grace, lambda: None)


def open_page(target: Target, sampling: Sampling, image: Path | None) -> None:
    """Serve a model to this machine's browser, on any free port, until Ctrl-C.

    Raises:
        UsageError: the extra `page` is not installed.
        RunError, ModelError, DeviceError: as `load_model`.
    """
    _require("the chat page", [*_SERVER, *_PAGE], "page")
    import webbrowser  # noqa: PLC0415

    from qllava.serve.app import Settings  # noqa: PLC0415
    from qllava.serve.examples import find_examples  # noqa: PLC0415
    from qllava.serve.run import listen  # noqa: PLC0415

    settings = Settings(
        model=Path(target.name).resolve().name,
        sampling=sampling,
        page=True,
        examples=find_examples(_data(target)),
        picture=image,
    )
    listening = listen(_LOOPBACK, 0)
    url = _url(listening)
    _serve(target, listening, settings, 1.0, lambda: _open(webbrowser.open, url))


def _data(target: Target) -> dict[str, Any]:
    """What a run was trained on; nothing is known of an export's."""
    return {} if target.run is None else target.run.manifest.data


def _serve(
    target: Target, listening: socket.socket, settings: Settings, grace: float, ready: Callable[[], None]
) -> None:
    from qllava.infer.engine import Engine  # noqa: PLC0415
    from qllava.serve.run import run_server  # noqa: PLC0415

    _log_to_stderr()
    loaded = load_model(target)
    describe_model(target, loaded)
    url = _url(listening)

    def announce() -> None:
        say("model", settings.model, "what clients name", "--name")
        say("answers", f"{settings.rows} at a time, {settings.queue} may wait", "--batch, --queue")
        say("key", "wanted" if settings.key else "none", "--api-key-env")
        say("api", f"{url}/v1")
        if settings.page:
            say("page", f"{url}/", f"{len(settings.examples)} example pictures")
        else:
            say("page", "none", "--page; pip install 'qllava[page]'" if _missing(_PAGE) else "--page")
        note("Ctrl-C ends it once the answers under way are complete")
        ready()

    run_server(Engine(loaded), listening, settings, grace=grace, ready=announce)
    note("stopped")


def _open(browser: Callable[[str], bool], url: str) -> None:
    if not browser(url):
        note(f"no browser could be started; open {url}/ yourself")


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"--api-key-env {variable}: that variable is empty or not set; put the key there")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"--api-key-env {variable}: a key is printable ASCII without spaces; choose another")
    return key


def _missing(modules: Sequence[str]) -> list[str]:
    return [module for module in modules if find_spec(module) is None]


def _require(what: str, modules: Sequence[str], extra: str) -> None:
    missing = _missing(modules)
    if missing:
        raise UsageError(f"{what} needs {' and '.join(missing)}; install with `pip install 'qllava[{extra}]'`")


def _log_to_stderr() -> None:
    """One line a request, and what goes wrong; never a header or a question."""
    import logging  # noqa: PLC0415

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name, level in (("qllava.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
