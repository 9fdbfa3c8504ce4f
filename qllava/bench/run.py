"""A benchmark: contenders in processes of their own, taking turns on the same model and data."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qllava.bench.data import write_data
from qllava.bench.spec import BenchSpec, Measured, Setting, read_measured
from qllava.bench.worker import ERROR
from qllava.data.chat_template import stage_template
from qllava.data.formats import load_conversations
from qllava.data.lengths import measure_lengths
from qllava.errors import ModelError, RunError
from qllava.model.tokenizer_file import find_tokenizer_file
from qllava.plan.device import GIB, DeviceProbe
from qllava.plan.plan import make_plan
from qllava.plan.sizes import model_sizes
from qllava.plan.work import ALONE, Job, Sharing, StageText, sample_tflop
from qllava.recipe import Recipe
from qllava.types import STAGE_FILES, Stage

OURS = Setting("qllava", "qllava")
UNPACKED = Setting("qllava", "qllava, no packing", pack=False)
DEFAULT = Setting("trl", "trl, defaults")
# Recomputation off, and on a processor without AMX no bf16, which it only emulates; the batch is searched.
BEST = Setting("trl", "trl, best", checkpointing=False)
MICRO_BATCHES = (1, 2, 4, 8)
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
_TAIL = 2000
# Tokens beside the picture that every sample keeps within, the template's own among them.
_LONGEST_TEXT = 768
_TEMPLATE_WORDS = 128

Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchRequest:
    """What `qllava bench` was asked; `batch_size` samples a step, `rounds` turns of each contender."""

    recipe: Recipe
    stage: Stage
    probe: DeviceProbe
    steps: int
    batch_size: int
    rounds: int
    vram_gib: float | None
    random_weights: bool
    pack: bool
    against_trl: bool
    profile: bool


@dataclass(frozen=True)
class Row:
    """One contender: every turn it had, and the middle one by speed."""

    setting: Setting
    turns: list[Measured]

    @property
    def middle(self) -> Measured:
        """The turn of median speed."""
        ordered = sorted(self.turns, key=lambda turn: turn.samples_per_second)
        return ordered[len(ordered) // 2]

    @property
    def peak_bytes(self) -> int:
        """The highest of all turns."""
        return max(turn.peak_bytes for turn in self.turns)


@dataclass(frozen=True)
class BenchResult:
    """All figures. `tried` are TRL's other settings, one turn each."""

    request: BenchRequest
    ours: Row
    default: Row | None
    best: Row | None
    tried: list[Row]
    tflop_a_sample: float
    planned_peak_gib: float | None

    @property
    def rate(self) -> float:
        """TFLOP/s (1e12) of products: the best that any of our processes measured."""
        return max(turn.matmul_tflops for turn in self.ours.turns)

    @property
    def share_of_rate(self) -> float:
        """Useful arithmetic of our steps (no recomputation counted) as a share, 0-1, of the measured rate."""
        return self.ours.middle.samples_per_second * self.tflop_a_sample / self.rate

    def ratio(self, other: Row | None) -> float | None:
        """Our samples a second over another's: the median over rounds; None where it did not run or fit."""
        if other is None or not all(turn.seconds for turn in other.turns):
            return None
        pairs = zip(self.ours.turns, other.turns, strict=True)
        return statistics.median(mine.samples_per_second / theirs.samples_per_second for mine, theirs in pairs)


def run_bench(request: BenchRequest, say: Say) -> BenchResult:
    """Measure everything that was asked for.

    Raises:
        RunError: a measuring process failed; the end of what it said.
        DataError, ModelError: as training would.
    """
    device = "cuda" if request.probe.kind == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        steps = request.steps + 1 + int(request.profile)
        count = steps * request.batch_size
        write_data(home / "data", stage=request.stage, samples=count, longest=_LONGEST_TEXT - _TEMPLATE_WORDS)
        first = _spec(request, OURS if request.pack else UNPACKED, home / "data", device)

        def measure(setting: Setting, turn: int, *, profile: bool = False) -> Measured:
            say(f"{setting.name}, round {turn + 1}")
            return _in_process(replace(first, setting=setting, profile=profile), home)

        contenders = [first.setting]
        tried: list[Row] = []
        if request.against_trl:
            for setting in _best_candidates(request.batch_size, device):
                tried.append(Row(setting, [measure(setting, 0)]))
            fitting = [row for row in tried if not row.turns[0].out_of_memory]
            contenders.append(replace(DEFAULT, micro_batch=min(DEFAULT.micro_batch, request.batch_size)))
            contenders += [max(fitting, key=lambda row: row.turns[0].samples_per_second).setting] if fitting else []
        turns: list[list[Measured]] = [[] for _ in contenders]
        for number in range(request.rounds):
            for place, setting in enumerate(contenders):
                profile = request.profile and place == 0 and number == 0
                turns[place].append(measure(setting, number, profile=profile))
        rows = [Row(setting, each) for setting, each in zip(contenders, turns, strict=True)]
        if rows[0].turns[0].out_of_memory:
            raise RunError("our own steps ran out of memory; `qllava plan` says what to change")
        work = _tflop_a_sample(request, rows[0].middle, home / "data")
    plan = make_plan(request.recipe, request.stage, request.probe, vram_gib=request.vram_gib)
    return BenchResult(
        request=request,
        ours=rows[0],
        default=rows[1] if len(rows) > 1 else None,
        best=rows[2] if len(rows) > 2 else None,
        tried=tried,
        tflop_a_sample=work,
        planned_peak_gib=plan.peak_gib,
    )


def with_room(recipe: Recipe) -> Recipe:
    """The recipe with a `max_length` that holds every sample of the benchmark: nothing may be cut or left out.

    Raises:
        ModelError: the dimensions are not known here.
    """
    sizes = model_sizes(recipe.model)
    if sizes is None:
        raise ModelError(f"the dimensions of {recipe.model.language_model} or {recipe.model.vision_tower} are unknown")
    room = max(recipe.data.max_length, sizes.image_tokens + _LONGEST_TEXT)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": room})})


def result_json(result: BenchResult) -> dict[str, Any]:
    """Every figure, for programs; rates are a second, peaks bytes."""
    request = result.request
    rows = [row for row in (result.ours, result.default, result.best, *result.tried) if row is not None]
    return {
        "recipe": request.recipe.name,
        "language_model": request.recipe.model.language_model,
        "vision_tower": request.recipe.model.vision_tower,
        "stage": request.stage,
        "random_weights": request.random_weights,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "rounds": request.rounds,
        "vram_gib": request.vram_gib,
        "ratio_default": result.ratio(result.default),
        "ratio_best": result.ratio(result.best),
        "share_of_matmul_rate": result.share_of_rate,
        "matmul_tflops": result.rate,
        "tflop_a_sample": result.tflop_a_sample,
        "planned_peak_gib": result.planned_peak_gib,
        "profile": result.ours.turns[0].shares,
        "contenders": [_row_json(row) for row in rows],
        "machine": {
            "device": request.probe.name,
            "memory_gib": request.probe.total_bytes / GIB,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _row_json(row: Row) -> dict[str, Any]:
    middle, setting = row.middle, row.setting
    seconds = middle.seconds or float("inf")
    trl = {
        "micro_batch": setting.micro_batch,
        "checkpointing": setting.checkpointing,
        "bf16": setting.autocast,
    }
    ours = {"pack": setting.pack, "checkpoint_every": middle.checkpoint_every, "token_budget": middle.token_budget}
    return {
        "name": setting.name,
        "settings": trl if setting.trainer == "trl" else ours,
        "out_of_memory": middle.out_of_memory,
        "samples_per_second": middle.samples / seconds,
        "tokens_per_second": middle.tokens / seconds,
        "supervised_tokens_per_second": middle.supervised_tokens / seconds,
        "samples": middle.samples,
        "tokens": middle.tokens,
        "supervised_tokens": middle.supervised_tokens,
        "seconds": [turn.seconds for turn in row.turns],
        "cpu_seconds": [turn.cpu_seconds for turn in row.turns],
        "peak_bytes": row.peak_bytes,
        "loss": middle.loss,
    }


def _best_candidates(batch_size: int, device: str) -> list[Setting]:
    from qllava.plan.arithmetic import processor_has_amx  # noqa: PLC0415

    autocast = device == "cuda" or processor_has_amx()
    workers = 4 if device == "cuda" else 0
    return [
        replace(
            BEST,
            name=f"trl, best (batch {size}, no recomputation{'' if autocast else ', fp32'})",
            micro_batch=size,
            autocast=autocast,
            workers=workers,
        )
        for size in MICRO_BATCHES
        if size <= batch_size
    ]


def _spec(request: BenchRequest, setting: Setting, data: Path, device: str) -> BenchSpec:
    return BenchSpec(
        recipe=request.recipe.model_dump(mode="json"),
        stage=request.stage,
        setting=setting,
        steps=request.steps,
        batch_size=request.batch_size,
        device=device,
        vram_gib=request.vram_gib,
        random_weights=request.random_weights,
        data=str(data),
    )


def _in_process(spec: BenchSpec, home: Path) -> Measured:
    """A worker process: its memory peak is of this contender alone, and nothing it leaves can help the next."""
    spec_path, result_path, log_path = home / "spec.json", home / "result.json", home / "log.txt"
    result_path.unlink(missing_ok=True)
    spec.write(spec_path)
    command = [sys.executable, "-m", "qllava.bench.worker", str(spec_path), str(result_path)]
    with log_path.open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0 or not result_path.is_file():
        said = log_path.read_text(encoding="utf-8", errors="replace").strip()[-_TAIL:]
        if done.returncode == -9:  # a processor's out of memory is the system's kill
            return Measured(out_of_memory=True)
        last = said.splitlines()[-1] if said else ""
        if last.startswith(ERROR):
            raise RunError(last.removeprefix(ERROR))
        raise RunError(f"measuring {spec.setting.name} failed with exit code {done.returncode}: {said}")
    return read_measured(result_path)


def _tflop_a_sample(request: BenchRequest, measured: Measured, data: Path) -> float:
    """Useful TFLOP of a measured sample, forward and backward, nothing recomputed."""
    recipe = request.recipe
    sizes = model_sizes(recipe.model)
    if sizes is None:
        raise RunError(f"the dimensions of {recipe.model.language_model} are not known, so neither is its arithmetic")
    supervised = measured.supervised_tokens / measured.samples
    lengths, _ = measure_lengths(
        load_conversations(data / STAGE_FILES[request.stage]),
        template=stage_template(recipe.template, recipe.align_template, request.stage),
        tokenizer_file=None if request.random_weights else find_tokenizer_file(recipe.model.language_model),
        needs_image=request.stage == "align",
    )
    sharing = ALONE
    if measured.pictures < measured.samples:
        sharing = Sharing(measured.samples / measured.pictures, lengths.sharing.prefix)
    # What was computed, tokens of shared pictures counted once, is known exactly; the rest follows from it.
    shared = (1 - 1 / sharing.samples_a_picture) * (sizes.image_tokens + sharing.prefix)
    text = StageText(measured.tokens / measured.samples + shared - sizes.image_tokens, supervised)
    job = Job(sizes, request.stage, recipe.lora, recipe.model.quantization, text, recipe.data.max_length, sharing)
    return sample_tflop(job, None)
