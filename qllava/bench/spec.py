"""What one measuring process is told, and what it answers; both travel as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from qllava.recipe import Recipe, parse_recipe
from qllava.types import Stage

Trainer = Literal["qllava", "trl"]


@dataclass(frozen=True)
class Setting:
    """How one contender trains.

    Attributes:
        trainer: ours or stock TRL.
        name: for people.
        micro_batch: TRL's samples at once.
        checkpointing: TRL's gradient checkpointing.
        autocast: TRL's bf16 autocast.
        workers: TRL's data workers.
        pack: ours with packed trees; False is one conversation a sequence.
    """

    trainer: Trainer
    name: str
    micro_batch: int = 8
    checkpointing: bool = True
    autocast: bool = True
    workers: int = 0
    pack: bool = True


@dataclass(frozen=True)
class BenchSpec:
    """One measuring process.

    Attributes:
        recipe: the resolved recipe as a mapping.
        stage: align or finetune.
        setting: the contender.
        steps: measured optimizer steps; one more comes before and is not counted.
        batch_size: samples of a step, the same for all contenders.
        device: `cuda` or `cpu`.
        vram_gib: cap of the card's memory, or None.
        random_weights: build the model from its dimensions instead of loading it.
        data: folder that `data.write_data` filled.
        profile: also profile one step.
    """

    recipe: dict[str, Any]
    stage: Stage
    setting: Setting
    steps: int
    batch_size: int
    device: str
    vram_gib: float | None
    random_weights: bool
    data: str
    profile: bool = False

    def parsed_recipe(self) -> Recipe:
        """The recipe."""
        return parse_recipe(self.recipe, origin="benchmark")

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Measured:
    """What a process measured over its counted steps.

    Attributes:
        seconds: wall time, data included.
        cpu_seconds: processor time of the process; on a busy machine without a card it is the steadier of the two.
        samples, pictures: used; a picture shared by samples of a pack counts once.
        tokens: of all sequences computed, image tokens included; TRL's padding too.
        supervised_tokens: positions that the loss counts.
        peak_bytes: torch's peak on a card, the process's on a processor.
        loss: of the last step.
        out_of_memory: it did not fit; everything else is 0.
        checkpoint_every, token_budget: ours, as planned.
        matmul_tflops: what products reach in the same process; of ours only.
        shares: by kind of operation, of the profiled step's time; empty unless asked for.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    samples: int = 0
    pictures: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    peak_bytes: int = 0
    loss: float = 0.0
    out_of_memory: bool = False
    checkpoint_every: int | None = None
    token_budget: int | None = None
    matmul_tflops: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def samples_per_second(self) -> float:
        """0 where it ran out of memory."""
        return self.samples / self.seconds if self.seconds else 0.0


def read_spec(path: Path) -> BenchSpec:
    """What `BenchSpec.write` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return BenchSpec(**{**values, "setting": Setting(**values["setting"])})


def read_measured(path: Path) -> Measured:
    """What a worker wrote."""
    return Measured(**json.loads(path.read_text(encoding="utf-8")))
