"""How the cost of starting a run grows with the data: checking, grouping, planning and tokenising synthetic rows.

    python examples/bench_prepare.py --rows 1000000

Writes LLaVA-shaped JSON (about two samples a picture, lognormal lengths) with its pictures (links to one file), then
times what `qllava train` does before its first step: opening the data, the quick check, grouping and planning the
optimizer steps; once as for new data, once as at every later start, when index and findings are kept. Last it tokenises
some rows with the embedded tokenizer. Memory is the process's own, without mapped files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from qllava.checkpoint.load import build_encoder
from qllava.data.audit import select
from qllava.data.check_cache import cached_check
from qllava.data.encode import SampleRejected
from qllava.data.formats import load_conversations
from qllava.data.steps import plan_steps
from qllava.recipe import load_recipe

TOKENISED = 20_000
WORDS = ("a", "the", "red", "small", "dog", "table", "street", "sits", "stands", "behind", "under", "people", "near")


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """`rows` samples over about half as many pictures, one text-only row in ten."""
    rng = random.Random(seed)  # noqa: S311 - test data
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number in range(rows):
            answer = " ".join(rng.choices(WORDS, k=max(2, int(rng.lognormvariate(3.5, 0.8)))))
            turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": answer}]
            row: dict[str, object] = {"id": str(number), "conversations": turns}
            if rng.random() < 0.9:
                row["image"] = f"coco/{rng.randrange(max(1, rows // 2)):012d}.jpg"
            else:
                turns[0]["value"] = "What is this?"
            file.write((",\n" if number else "") + json.dumps(row))
        file.write("]")


def write_pictures(root: Path, rows: int) -> None:
    """Every picture that a row may name: links to one small file."""
    folder = root / "coco"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(root / "one.jpg")
    for number in range(max(1, rows // 2)):
        (folder / f"{number:012d}.jpg").symlink_to("../one.jpg")


def own_memory() -> int:
    """MiB of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) // 1024
    return 0


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what the block took."""
    started, before = time.perf_counter(), own_memory()
    yield
    grown = own_memory() - before
    print(f"{what:<42} {time.perf_counter() - started:8.2f} s  {grown:+6d} MiB, now {own_memory()}", flush=True)


def main() -> None:
    """Write, measure, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    print(f"{rows:,} rows; {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    recipe = load_recipe("smol")
    encoder = build_encoder(recipe, template=recipe.template)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        with timed("write the file (not part of a run)"):
            write_rows(path, rows)
            write_pictures(Path(folder), rows)
        print(f"{path.stat().st_size / 1e6:,.0f} MB")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for start in ("new data", "later start"):
            print(f"{start}:")
            with timed("  open"):
                table = load_conversations(path)
            with timed("  quick check"):
                findings = cached_check(
                    table,
                    encoder,
                    digest=digest,
                    cache=Path(folder) / "checks",
                    image_root=Path(folder),
                    max_length=512,
                    needs_image=False,
                    thorough=False,
                )
            with timed("  group and plan the steps of one epoch"):
                checked = select(table, findings, needs_image=False)
                steps = plan_steps(checked.groups, batch_size=128, epochs=1, seed=0)
        rejected = 0
        with timed(f"tokenise {min(rows, TOKENISED):,} rows"):
            for index in range(min(rows, TOKENISED)):
                try:
                    encoder.encode(table[index], 512)
                except SampleRejected:
                    rejected += 1
        print(f"{len(steps):,} steps; {rejected} of the tokenised rows are longer than 512 tokens")


if __name__ == "__main__":
    main()
