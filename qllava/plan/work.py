"""What a stage has to do: its model, how much text a sample holds, and the arithmetic a sample costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from qllava.plan.sizes import ModelSizes, TowerSizes
from qllava.recipe import LoraSettings
from qllava.types import Stage


class StageText(NamedTuple):
    """Mean tokens of a sample beside its picture's, and how many of them are supervised."""

    tokens: float
    supervised: float


# LLaVA's data: web captions in stage 1; GPT-written conversations, details and reasoning in stage 2.
TEXT: dict[Stage, StageText] = {"align": StageText(40, 20), "finetune": StageText(250, 229)}
# The rendered scenes that the embedded models are for: one-sentence captions, one-word answers.
SCENE_TEXT: dict[Stage, StageText] = {"align": StageText(25, 20), "finetune": StageText(30, 5)}

# A causal attention costs half of the full one; its backward 2.5 forwards.
_ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True)
class Job:
    """One stage of one model, all that memory and time depend on; `longest` is the longest sample in tokens."""

    sizes: ModelSizes
    stage: Stage
    lora: LoraSettings
    quantization: str
    text: StageText
    longest: int

    @property
    def sample_tokens(self) -> float:
        """Tokens of a mean sample, its picture's included."""
        return self.sizes.image_tokens + self.text.tokens


def sample_tflop(job: Job, checkpoint_every: int | None) -> float:
    """TFLOP (1e12) of one sample, forward and backward, not packed with others of its picture.

    Quantised weights get no gradient: their backward is one forward's worth. Checkpointing repeats the forward of
    every n-th layer. The tower runs forward only; the head only at supervised positions.
    """
    language, tokens = job.sizes.language, job.sample_tokens
    again = 0.0 if checkpoint_every is None else 1 / checkpoint_every
    linears = 2.0 * language.block_parameters * tokens * (2 + again)
    attention = 2.0 * tokens**2 * language.query_width * language.layers * (1 + again + _ATTENTION_BACKWARD)
    learnt = language.lora_parameters(job.lora.rank) if job.stage == "finetune" else 0
    adapters = 2.0 * learnt * tokens * (3 + again)
    projector = 2.0 * job.sizes.projector * job.sizes.image_tokens * 3
    head = 2.0 * 2 * language.vocab * language.width * job.text.supervised
    return (linears + attention + adapters + projector + head + tower_flop(job.sizes.tower)) / 1e12


def tower_flop(tower: TowerSizes) -> float:
    """FLOP of one picture through the vision tower."""
    tokens = tower.patches + int(tower.class_token)
    return 2.0 * tower.parameters * tokens + 4.0 * tokens**2 * tower.width * tower.layers
