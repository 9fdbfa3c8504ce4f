"""`python -m tests.serve.exact_server RUN ROWS QUEUE EXAMPLE`: in fp32, where a batch answers just like one at a time.

Under bf16, as `qllava serve` runs, products of another size round differently, and a random model's answers flip.
"""

from __future__ import annotations

import sys
from pathlib import Path

from qllava_cli.console import note, say

from qllava.checkpoint.load import load_run
from qllava.checkpoint.manifest import read_run
from qllava.infer.engine import Engine
from qllava.serve.app import Settings
from qllava.serve.examples import Example
from qllava.serve.run import listen, run_server


def main(run: str, rows: str, queue: str, example: str) -> None:
    loaded = load_run(read_run(Path(run)), device="cpu")
    loaded.model.float()
    listening = listen("127.0.0.1", 0)
    settings = Settings(
        model="exact", rows=int(rows), queue=int(queue), page=True, examples=(Example(Path(example), "What is it?"),)
    )

    def ready() -> None:
        say("api", f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        note("Ctrl-C ends it")

    run_server(Engine(loaded, mixed_precision=False), listening, settings, grace=5.0, ready=ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
