"""A run that is killed again and again: `python killed_runs.py COCO OUT URL KILLS`.

A fresh process each time (forked before any event loop or thread exists, which saves importing everything again),
ended by SIGKILL at a random moment. What is killed is the real run: journal, lock, files and all.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import openai  # noqa: F401 - imported once, before the forks

from qllava.datagen.asking import Policy
from qllava.datagen.model_run import ModelJob, ModelRun

JOURNAL = "responses.jsonl"
PATIENCE = 20.0


def answers(out: Path) -> int:
    """Lines of the journal."""
    return (out / JOURNAL).read_bytes().count(b"\n") if (out / JOURNAL).exists() else 0


def start(job: ModelJob) -> int:
    """A child that does the whole run; its process id."""
    child = os.fork()
    if child == 0:
        ModelRun(job).run(lambda asked, budget: None, lambda text: None)
        os._exit(0)
    return child


def kill(child: int) -> bool:
    """Whether it was still running."""
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def main(coco: Path, out: Path, url: str, kills: int) -> None:
    """Kill runs while they ask, let one finish, kill runs while they write; print what happened."""
    moments = random.Random(kills)
    job = ModelJob(coco, out=out, model="tiny", base_url=url, policy=Policy(4, retries=8, backoff_s=0.01))
    asking = 0
    for _ in range(kills):
        enough, deadline = answers(out) + moments.randint(0, 6), time.monotonic() + PATIENCE
        child = start(job)
        while answers(out) < enough and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.03))
        asking += kill(child)
    answered = answers(out) - 1
    os.waitpid(start(job), 0)
    writing = 0
    for _ in range(kills // 4):
        child = start(job)
        time.sleep(moments.uniform(0.0, 0.1))
        writing += kill(child)
    sys.stdout.write(f"{asking} {answered} {writing}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
