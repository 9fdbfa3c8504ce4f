"""Does the model look at the picture? The loss with the right picture against the loss with another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from qllava.checkpoint.weights import llava_of
from qllava.data.collator import collate_pack
from qllava.data.encode import ChatEncoder, SampleRejected
from qllava.data.images import normalize, pixel_statistics, read_pixels
from qllava.data.trees import grow_tree
from qllava.model.forward import loss_sum
from qllava.model.precision import autocast
from qllava.types import Conversation

# Another picture must cost at least this much more loss (nats a token) before we say that the model looks.
LOOKS_FROM = 0.05


@dataclass(frozen=True)
class PictureGain:
    """Mean loss in nats per supervised token, with the right pictures and with each sample given its neighbour's."""

    right: float
    shuffled: float
    samples: int

    @property
    def looks(self) -> bool:
        """Whether the picture makes a difference worth the name."""
        return self.shuffled - self.right >= LOOKS_FROM

    def sentence(self) -> str:
        """One line for people."""
        verdict = "the model looks at the picture" if self.looks else "the picture makes NO difference yet"
        return f"loss {self.right:.2f} with the right picture, {self.shuffled:.2f} with another: {verdict}"


@torch.no_grad()
def picture_gain(
    model: PeftModel | LlavaForConditionalGeneration,
    conversations: Sequence[Conversation],
    *,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
    image_root: Path,
    max_length: int,
    device: str,
) -> PictureGain | None:
    """Score samples of one picture each; None when fewer than two different pictures are among them.

    The neighbour's picture is the next different one, so the comparison is the same every time.
    """
    samples = _one_picture_each(conversations)
    # A picture that broke meanwhile is named by training; it must not cost the run its last line.
    readable, _ = read_pixels(image_processor, image_root, (sample.images[0] for sample in samples))
    samples = [sample for sample in samples if sample.images[0] in readable]
    if len(samples) < 2:
        return None
    was_training = model.training
    model.eval()
    llava = llava_of(model)
    pixels = [readable[sample.images[0]] for sample in samples]
    statistics = pixel_statistics(image_processor)
    totals = {"right": 0.0, "shuffled": 0.0}
    tokens = 0
    for index, conversation in enumerate(samples):
        try:
            tree = grow_tree([encoder.encode(conversation, max_length)], prefix=0)
        except SampleRejected:
            continue
        tokens += len(tree.target)
        for name, picture in (("right", pixels[index]), ("shuffled", pixels[(index + 1) % len(pixels)])):
            pack = {k: v.to(device) for k, v in collate_pack(tree, np.stack([picture])).items()}
            pack["pixel_values"] = normalize(pack["pixel_values"], *statistics)
            with autocast(device):
                totals[name] += float(loss_sum(llava, pack)[0])
    model.train(was_training)
    if tokens == 0:
        return None
    return PictureGain(totals["right"] / tokens, totals["shuffled"] / tokens, len(samples))


def _one_picture_each(conversations: Sequence[Conversation]) -> list[Conversation]:
    seen: set[str] = set()
    chosen = []
    for conversation in conversations:
        if len(conversation.images) == 1 and conversation.images[0] not in seen:
            seen.add(conversation.images[0])
            chosen.append(conversation)
    return chosen
