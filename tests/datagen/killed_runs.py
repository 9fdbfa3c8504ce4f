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

if __name__ == "__main__":
    coco, out, url, kills = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    moments = random.Random(kills)
    job = ModelJob(coco, out=out, model="tiny", base_url=url, policy=Policy(4, retries=8, backoff_s=0.01))
    ended = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            ModelRun(job).run(lambda asked, budget: None, lambda text: None)
            os._exit(0)
        time.sleep(moments.uniform(0.0, 0.5))
        os.kill(child, signal.SIGKILL)
        ended += os.waitpid(child, 0)[1] == signal.SIGKILL
    sys.stdout.write(f"{ended}\n")
