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


class Sharing(NamedTuple):
    """What conversations about one picture share: how many there are, and the text tokens before and with the picture.

    One sample a picture shares nothing.
    """

    samples_a_picture: float = 1.0
    prefix: float = 0.0


class Lengths(NamedTuple):
    """What was measured on a data set, and how."""

    text: StageText
    sharing: Sharing
    how: str


ALONE = Sharing()

# LLaVA's data: web captions in stage 1; GPT-written conversations, details and reasoning in stage 2.
TEXT: dict[Stage, StageText] = {"align": StageText(40, 20), "finetune": StageText(250, 229)}
# The rendered scenes that the embedded models are for: one-sentence captions, one-word answers.
SCENE_TEXT: dict[Stage, StageText] = {"align": StageText(25, 20), "finetune": StageText(30, 5)}

# A causal attention costs half of the full one; its backward 2.5 forwards.
_ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True)
class Job:
    """One stage of one model, all that memory and time depend on; `longest` is the longest sample in tokens.

    `sharing` is the data's, where it was measured: packed trees compute a shared picture once.
    """

    sizes: ModelSizes
    stage: Stage
    lora: LoraSettings
    quantization: str
    text: StageText
    longest: int
    sharing: Sharing = ALONE

    @property
    def sample_tokens(self) -> float:
        """Tokens of a mean sample, its picture's included."""
        return self.sizes.image_tokens + self.text.tokens

    @property
    def prefix_tokens(self) -> float:
        """Tokens that the samples of one picture share."""
        return self.sizes.image_tokens + self.sharing.prefix

    @property
    def packed_tokens(self) -> float:
        """Tokens that a mean sample adds to a pack: what it shares is counted once a picture."""
        return self.sample_tokens - (1 - 1 / self.sharing.samples_a_picture) * self.prefix_tokens


def sample_tflop(job: Job, checkpoint_every: int | None) -> float:
    """TFLOP (1e12) of one sample, forward and backward, with its part of what it shares with others of its picture.

    Quantised weights get no gradient: their backward is one forward's worth. Checkpointing repeats the forward of
    every n-th layer. The tower runs forward only; the head only at supervised positions.
    """
    language, tokens = job.sizes.language, job.packed_tokens
    once = 1 / job.sharing.samples_a_picture
    again = 0.0 if checkpoint_every is None else 1 / checkpoint_every
    linears = 2.0 * language.block_parameters * tokens * (2 + again)
    pairs = job.sample_tokens**2 - (1 - once) * job.prefix_tokens**2
    attention = 2.0 * pairs * language.query_width * language.layers * (1 + again + _ATTENTION_BACKWARD)
    learnt = language.lora_parameters(job.lora.rank) if job.stage == "finetune" else 0
    adapters = 2.0 * learnt * tokens * (3 + again)
    projector = 2.0 * job.sizes.projector * job.sizes.image_tokens * 3 * once
    head = 2.0 * 2 * language.vocab * language.width * job.text.supervised
    tower = tower_flop(job.sizes.tower) * once
    return (linears + attention + adapters + projector + head + tower) / 1e12


def tower_flop(tower: TowerSizes) -> float:
    """FLOP of one picture through the vision tower."""
    tokens = tower.patches + int(tower.class_token)
    return 2.0 * tower.parameters * tokens + 4.0 * tokens**2 * tower.width * tower.layers
