"""Kills, fills the disk of and damages real training runs, and says whether anything was lost.

    python examples/prove_reliability.py                # everything: minutes on two cores
    python examples/prove_reliability.py --kills 4 --flips 50 --only kills flips

Every run is the real `qllava train` in a process of its own, over tiny random models and rendered scenes. What comes
out is compared byte for byte with a run that nobody disturbed. The table goes to stdout; the exit status is 1 if a
single thing was lost.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from qllava_cli.main import main as command_line
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import qllava.train.run  # noqa: F401 - once, before the forks: every run would spend seconds on it
from qllava.checkpoint.saved import CHECKPOINTS, DamagedError, checkpoint_folders, verify
from qllava.demo.scenes import write_coco

STAGES = (("1", "align-001"), ("2", "finetune-001"))
STEPS = 10
# A run that neither ends nor gets anywhere in this many seconds hangs.
PATIENCE = 240.0
# Less than any weights file takes, more than a line of metrics.
FULL_DISK_BYTES = 16_384
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@dataclass
class Tally:
    """What was tried and what came of it; `lost` must stay empty."""

    tried: int = 0
    good: int = 0
    where: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def note(self, good: bool, what: str) -> None:
        """Count one trial."""
        self.tried += 1
        self.good += good
        if not good:
            self.lost.append(what)


def write_workspace(folder: Path, broken: float, seed: int) -> None:
    """Models, pictures, data and a recipe; `broken` is the share of training pictures that are cut short."""
    folder.mkdir(parents=True)
    _write_language_model(folder / "lm")
    os.chdir(folder)
    write_coco(folder / "coco", train=40, heldout=8, seed=seed)
    if command_line(["gen-data", "--images", "coco", "--teacher", "template"]) != 0:
        raise SystemExit("gen-data failed")
    pictures = sorted((folder / "coco" / "train2017").iterdir())
    for picture in random.Random(seed).sample(pictures, math.ceil(broken * len(pictures))):  # noqa: S311
        picture.write_bytes(picture.read_bytes()[:100])
    stage = {"batch_size": 4, "max_steps": STEPS, "save_steps": 1}
    recipe = {
        "name": "tiny",
        "model": {
            "language_model": str(folder / "lm"),
            "vision_tower": "embedded:scene-clip",
            "feature_layer": -1,
            "quantization": "nf4",
        },
        "template": "chatml",
        "data": {"max_length": 256, "image_aspect": "squash", "workers": 0},
        "align": {"learning_rate": 1e-3, **stage},
        "finetune": {"learning_rate": 1e-3, "projector_learning_rate": 1e-4, **stage},
        # Dropout draws random numbers in every step: a generator that is not restored shows in the weights.
        "lora": {"rank": 4, "dropout": 0.1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "qllava.yaml").write_text(f"recipe: {folder / 'tiny.yaml'}\n")


def _write_language_model(folder: Path) -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = ["user assistant system", "What color is the circle?", "a red circle left of a blue square", "yes no two"]
    backend.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet)
    )
    pad, start, end = SPECIALS
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=pad, bos_token=start)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)


class Place:
    """A directory in which the two training commands are run, disturbed or not."""

    def __init__(self, base: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        shutil.copytree(base / "data", folder / "data")
        (folder / "coco").symlink_to(base / "coco")
        shutil.copy(base / "qllava.yaml", folder)
        self.folder = folder
        self.log = folder / "said.txt"
        self.log.touch()

    def start(self, stage: str, prepare: Callable[[], None] | None = None) -> int:
        """`qllava train --stage N` in a process of its own; its process id."""
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            said = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.chdir(self.folder)
            if prepare is not None:
                prepare()
            arguments = ["train", "--stage", stage, "--yes", "--max-bad", "0.1"]  # for --broken
            sys.argv = ["qllava", *arguments]
            code = command_line(arguments)
            sys.stderr.flush()
        finally:
            os._exit(code)

    def finish(self, stage: str) -> int:
        """Run it to its end; the exit status."""
        return ended(self.start(stage))

    def said(self) -> str:
        """Everything the commands said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def run(self, name: str) -> Path:
        """A run folder."""
        return self.folder / "runs" / name

    def steps(self, name: str) -> int:
        """Lines of a run's metrics."""
        path = self.run(name) / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def is_saving(self, name: str) -> bool:
        """Whether a half-written checkpoint is there."""
        folder = self.run(name) / CHECKPOINTS
        return folder.is_dir() and any(path.name.startswith(".step-") for path in folder.iterdir())

    def weights(self) -> dict[str, bytes]:
        """Every trained weight file, byte for byte."""
        files = (self.run(name) / file for _, name in STAGES for file in _WEIGHTS)
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files if path.is_file()}


_WEIGHTS = ("projector.safetensors", "adapter_model.safetensors")


def ended(child: int) -> int:
    """Wait for a child; its exit status, negative for a signal."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise SystemExit(f"a run did not end within {PATIENCE:.0f} s")


def wait_until(child: int, condition: Callable[[], bool]) -> bool:
    """Wait for a condition; False if the child ended first."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        # Looked at without reaping it: `ended` does that.
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.0005)
    return True


def train_calmly(base: Path, folder: Path) -> Place:
    """Both stages without any disturbance."""
    place = Place(base, folder)
    for stage, _ in STAGES:
        if place.finish(stage) != 0:
            raise SystemExit(f"the undisturbed run failed:\n{place.said()}")
    return place


def kill_runs(base: Path, work: Path, calm: Place, kills: int, seed: int) -> Tally:
    """SIGKILL at random moments: while starting, training, saving, finishing; up to five in one run, then on."""
    rng = random.Random(seed)  # noqa: S311 - which moment, which bit
    tally = Tally()
    number = 0
    while tally.tried < kills:
        place = Place(base, work / f"killed-{number}")
        number += 1
        left = min(5, kills - tally.tried)
        moments: list[str] = []
        for stage, name in STAGES:
            # Half of what is left for the first stage, the rest for the second.
            for _ in range(left - left // 2 if stage == "1" else left - len(moments)):
                where = _kill_once(place, stage, name, rng)
                if where is None:
                    break
                moments.append(where)
            if place.finish(stage) != 0 and not (place.run(name) / "loss.png").exists():
                raise SystemExit(f"a killed run did not continue:\n{place.said()}")
        same = place.weights() == calm.weights()
        for where in moments:
            tally.where[where] += 1
            tally.note(same, f"{place.folder.name}: other weights after a kill while {where}")
        shutil.rmtree(place.folder)
    return tally


def _kill_once(place: Place, stage: str, name: str, rng: random.Random) -> str | None:
    """Start and kill; what it was doing, or None if it ended first (then it is finished)."""
    before = place.steps(name)
    child = place.start(stage)
    kind = rng.choice(("saving", "saving", "step", "any"))
    if kind == "any":
        deadline = time.monotonic() + rng.uniform(0.0, 6.0)
        wait_until(child, lambda: time.monotonic() > deadline)
    else:
        steps = before + rng.randint(1, 3)
        wait_until(child, lambda: place.steps(name) >= steps)
        if kind == "saving":
            wait_until(child, lambda: place.is_saving(name))
        time.sleep(rng.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    status = ended(child)
    if status != -signal.SIGKILL:
        if status != 0:
            raise SystemExit(f"a run failed before it was killed:\n{place.said()}")
        return None
    if place.is_saving(name):
        return "saving"
    if place.steps(name) >= STEPS:
        return "finishing"
    return "training" if place.steps(name) > before else "starting"


def fill_disk(base: Path, work: Path, calm: Place) -> Tally:
    """Every save of both stages meets a full disk (a limit on file sizes), after one that did not."""
    place = Place(base, work / "full")
    tally = Tally()
    for stage, name in STAGES:
        _stop_after(place, stage, name, 3, signal.SIGTERM)
        kept = checkpoint_folders(place.run(name))[-1]
        mark = len(place.said())
        status = ended(place.start(stage, _full_disk))
        said = place.said()[mark:]
        failed = STEPS - int(kept.name.removeprefix("step-"))
        intact = not _is_damaged(kept) and checkpoint_folders(place.run(name))[-1] == kept
        for step in range(STEPS - failed + 1, STEPS + 1):
            tally.note(
                intact and said.count(f"NOT SAVED checkpoint of step {step} ") == 1, f"{name}: the save of step {step}"
            )
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        clear = status == 1 and len(errors) == 1 and "Traceback" not in said
        tally.note(clear and place.finish(stage) == 0, f"{name}: did not end in one clear line, or did not continue")
    tally.note(place.weights() == calm.weights(), "other weights after the disk was full")
    return tally


def _full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_DISK_BYTES, FULL_DISK_BYTES))


def _stop_after(place: Place, stage: str, name: str, steps: int, number: int) -> int:
    child = place.start(stage)
    wait_until(child, lambda: place.steps(name) >= steps)
    os.kill(child, number)
    status = ended(child)
    if not checkpoint_folders(place.run(name)):
        raise SystemExit(f"nothing was saved before signal {number} (exit status {status}):\n{place.said()}")
    return status


def _is_damaged(folder: Path) -> bool:
    try:
        verify(folder)
    except DamagedError:
        return True
    return False


def flip_bits(calm: Place, work: Path, flips: int, seed: int) -> Tally:
    """One bit at a time, in any file of a checkpoint."""
    rng = random.Random(seed)  # noqa: S311 - which moment, which bit
    tally = Tally()
    folder = work / checkpoint_folders(calm.run("finetune-001"))[-1].name
    shutil.copytree(checkpoint_folders(calm.run("finetune-001"))[-1], folder)
    if _is_damaged(folder):
        raise SystemExit("a fresh checkpoint counts as damaged")
    files = sorted(folder.iterdir())
    for _ in range(flips):
        path = rng.choice(files)
        bit = rng.randrange(path.stat().st_size * 8)
        _flip(path, bit)
        tally.where[path.name] += 1
        tally.note(_is_damaged(folder), f"bit {bit} of {path.name}")
        _flip(path, bit)
    if _is_damaged(folder):
        raise SystemExit("the flips were not undone")
    return tally


def _flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ (1 << bit % 8)]))


def chaos(base: Path, work: Path, calm: Place) -> Tally:
    """Two kills, a full disk, a SIGTERM and a damaged checkpoint in one training; the same weights as without."""
    place = Place(base, work / "chaos")
    tally = Tally()

    def expect(status: int, wanted: int, what: str) -> None:
        tally.where[what] += 1
        tally.note(status == wanted, f"{what}: exit status {status}, not {wanted}")

    expect(_stop_after(place, "1", "align-001", 2, signal.SIGKILL), -signal.SIGKILL, "kill")
    expect(ended(place.start("1", _full_disk)), 1, "full disk")
    _flip(checkpoint_folders(place.run("align-001"))[-1] / "optimizer.pt", 4000)
    expect(place.finish("1"), 0, "damaged checkpoint")
    tally.note("DAMAGED" in place.said(), "a damaged checkpoint was not named")
    expect(_stop_after(place, "2", "finetune-001", 3, signal.SIGTERM), 128 + signal.SIGTERM, "SIGTERM")
    expect(_stop_after(place, "2", "finetune-001", 6, signal.SIGKILL), -signal.SIGKILL, "kill")
    expect(place.finish("2"), 0, "the end")
    tally.note("Traceback" not in place.said(), "a traceback")
    tally.note(place.weights() == calm.weights(), "other weights than the calm run's")
    return tally


def table(tallies: dict[str, Tally]) -> str:
    """Markdown, as in the README."""
    says = {
        "kills": "`kill -9` at random moments of both stages, while {where}: continued, weights bit for bit the same",
        "disk": "full disk at every save: checkpoint kept, one clear line, weights the same",
        "flips": "single bits flipped in a checkpoint's files: detected",
        "chaos": "two kills, full disk, SIGTERM, damaged checkpoint in one training: weights the same",
    }
    rows = ["| what | of | came out well |", "|---|---|---|"]
    for name, tally in tallies.items():
        where = ", ".join(f"{kind} {count}" for kind, count in tally.where.most_common())
        rows.append(f"| {says[name].format(where=where)} | {tally.tried} | {tally.good} |")
    return "\n".join(rows)


def main() -> int:
    """Run the proofs that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("kills", "disk", "flips", "chaos"), help="default: all")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--broken", type=float, default=0.0, help="share of training pictures that are cut short")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="figures instead of a table")
    asked = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qllava-reliability-") as temporary:
        work = Path(temporary)
        base = work / "base"
        child = os.fork()
        if not child:  # torch must not have worked in the process that forks
            sys.stdout = sys.stderr
            write_workspace(base, asked.broken, asked.seed)
            os._exit(0)
        if ended(child) != 0:
            return 1
        calm = train_calmly(base, work / "calm")
        proofs: dict[str, Callable[[], Tally]] = {
            "kills": lambda: kill_runs(base, work, calm, asked.kills, asked.seed),
            "disk": lambda: fill_disk(base, work, calm),
            "flips": lambda: flip_bits(calm, work, asked.flips, asked.seed),
            "chaos": lambda: chaos(base, work, calm),
        }
        tallies: dict[str, Tally] = {}
        for name in asked.only or proofs:
            tallies[name] = proofs[name]()
            sys.stderr.write(f"{name}: {tallies[name].good} of {tallies[name].tried}\n")
    lost = [what for tally in tallies.values() for what in tally.lost]
    if asked.json:
        figures = {name: {"tried": t.tried, "good": t.good, "where": t.where} for name, t in tallies.items()}
        print(json.dumps(figures | {"lost": lost, "seconds": round(time.monotonic() - started)}))
    else:
        print(table(tallies))
    for what in lost:
        sys.stderr.write(f"LOST: {what}\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
