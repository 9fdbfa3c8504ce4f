"""LLaVA's ablation of its instruction data, five rows: which kinds of samples matter.

    python examples/ablate_kinds.py --bench LLaVA-Bench/coco --judge gpt-4o-2024-11-20 --max-cost 20

It needs a finished align run and data/instruct.json with all three kinds (as gen-data writes it; of the template
teacher's with `--kinds conversation,detail,reasoning`), trains four runs of stage 2 on shares of that data, has every
model judged on LLaVA-Bench (COCO), and prints the table of the paper (arXiv 2304.08485, ablation of training data; its
full data reach 85.1 over all). The last row is the align run itself, without instruction tuning. Everything can be
repeated: finished runs, answers and verdicts are kept. `--print` only shows the commands; what follows a bare `--` goes
to `qllava train` (`-- --max-steps 200`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROWS: dict[str, str | None] = {
    "Full data": "conversation,detail,reasoning",
    "Detail + complex": "detail,reasoning",
    "Conv + 5 % detail + 10 % complex": "conversation,detail=5%,reasoning=10%",
    "Conversation": "conversation",
    "No instruction tuning": None,
}


def commands(options: argparse.Namespace) -> dict[str, list[list[str]]]:
    """What is run for each row: training where there is any, then the judged benchmark."""
    qllava = [sys.executable, "-m", "qllava_cli.main"]
    made: dict[str, list[list[str]]] = {}
    for number, (row, kinds) in enumerate(ROWS.items(), start=1):
        folder = options.out / f"{number}"
        steps: list[list[str]] = []
        run = options.align
        if kinds is not None:
            run = folder / "finetune-001"
            train = ["train", "--stage", "2", "--kinds", kinds, "--align", str(options.align), "--out", str(folder)]
            if not finished(run):
                steps.append([*qllava, *train, "--data", options.data, "--yes", *options.train])
        judge = ["--judge", options.judge, "--run", str(run), "--out", str(folder / "bench"), "--yes", "--json"]
        limits = [] if options.max_cost is None else ["--max-cost", str(options.max_cost / len(ROWS))]
        server = [] if options.base_url is None else ["--base-url", options.base_url]
        steps.append([*qllava, "eval", "llava-bench", str(options.bench), *judge, *limits, *server])
        made[row] = steps
    return made


def finished(run: Path) -> bool:
    """Whether a run's manifest says so."""
    manifest = run / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["status"] == "finished"


def table(options: argparse.Namespace) -> str:
    """The scores of all rows; a score that is not there shows a dash."""
    columns = ("conv", "detail", "complex", "all")
    lines = ["".ljust(36) + "".join(name.rjust(9) for name in columns)]
    for number, row in enumerate(ROWS, start=1):
        scores = json.loads((options.out / f"{number}" / "bench" / "result.json").read_text(encoding="utf-8"))["scores"]
        cells = [scores.get(name, {}).get("score") for name in columns]
        lines.append(row.ljust(36) + "".join(("-" if cell is None else f"{cell:.1f}").rjust(9) for cell in cells))
    return "\n".join([*lines, f"judge: {options.judge}"])


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder of LLaVA-Bench (COCO)")
    parser.add_argument("--judge", required=True, help="the judge's model")
    parser.add_argument("--base-url", help="the judge's server")
    parser.add_argument("--max-cost", type=float, help="USD for all five rows")
    parser.add_argument("--align", type=Path, default=Path("runs/align-001"))
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", type=Path, default=Path("runs-ablation"))
    parser.add_argument("--print", action="store_true", help="show the commands and run nothing")
    parser.add_argument("train", nargs="*", help="more flags for `qllava train`, behind --")
    options = parser.parse_args()
    for row, steps in commands(options).items():
        print(f"# {row}", file=sys.stderr)
        for step in steps:
            print(shlex.join(["qllava", *step[3:]]), file=sys.stderr, flush=True)
            if not options.print:
                done = subprocess.run(step, check=False, stdout=subprocess.DEVNULL)
                if done.returncode:  # it has said why
                    raise SystemExit(done.returncode)
    if not options.print:
        print(table(options))


if __name__ == "__main__":
    main()
