"""Does the model look at the picture? Answers scored with the right picture, with another one, and with none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from qllava.checkpoint.weights import llava_of
from qllava.data.encode import ChatEncoder, Encoded, SampleRejected
from qllava.data.images import open_image, pixel_statistics, resolve_image, to_pixels
from qllava.evaluate.ask import CONDITIONS, Condition, exchange
from qllava.evaluate.bootstrap import Difference, Estimate, paired_difference, ratio_estimate
from qllava.evaluate.token_scores import Pixels, TokenScores, token_scores
from qllava.types import Conversation, Message, Stage

# Another picture must cost at least this much more loss (nats a token) before we say that the model looks.
LOOKS_FROM = 0.05

Progress = Callable[[Condition, int, int], None]


@dataclass(frozen=True)
class Seen:
    """One condition: mean loss in nats a token of the answers, and the share of these tokens that are the likeliest."""

    loss: Estimate
    accuracy: Estimate


@dataclass(frozen=True)
class Sight:
    """What the picture is worth to a model.

    Attributes:
        conditions: `right`, `shuffled` and `none`, over the same tokens.
        shuffled_costs, none_costs: how much more loss than with the right picture, in nats a token.
        samples: that were scored, about this many `pictures`.
        left_out: reason -> samples that were not.
    """

    conditions: Mapping[Condition, Seen]
    shuffled_costs: Difference
    none_costs: Difference
    samples: int
    pictures: int
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def looks(self) -> bool:
        """Whether another picture makes a difference worth the name, and more than chance would."""
        return self.shuffled_costs.value >= LOOKS_FROM and self.shuffled_costs.low > 0

    def sentence(self, stage: Stage | None = None) -> str:
        """One line for people."""
        right, shuffled = (self.conditions[name].loss.value for name in ("right", "shuffled"))
        costs = self.shuffled_costs
        figures = (
            f"loss {right:.2f} with the right picture, {shuffled:.2f} with another "
            f"({costs.value:+.2f}, 95 % {costs.low:+.2f} to {costs.high:+.2f})"
        )
        if stage == "align":
            verdict = "stage 1 aligned" if self.looks else "stage 1 has NOT aligned: the picture makes no difference"
        else:
            verdict = "the model looks" if self.looks else "the model does NOT look: the picture makes no difference"
        return f"{verdict}; {figures}"

    def advice(self, stage: Stage | None = None) -> str | None:
        """What to do about a model that does not look; None where it does."""
        if self.looks:
            return None
        if stage == "align":
            return (
                "what this projector tells the language model does not depend on the picture, and stage 2 cannot mend "
                "that; check that --images holds the right pictures, then align longer (--epochs) or on more pairs"
            )
        return (
            "this model answers the same whatever it is shown; check that its align run aligned "
            "(`qllava eval sees --run runs/align-...`) and that the questions need the picture"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "looks": self.looks,
            "samples": self.samples,
            "pictures": self.pictures,
            "left_out": dict(self.left_out),
            "conditions": {
                name: {"loss": seen.loss.to_dict(), "token_accuracy": seen.accuracy.to_dict()}
                for name, seen in self.conditions.items()
            },
            "shuffled_costs": self.shuffled_costs.to_dict(),
            "none_costs": self.none_costs.to_dict(),
        }


def sees(
    model: PeftModel | LlavaForConditionalGeneration,
    conversations: Sequence[Conversation],
    *,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
    image_root: Path,
    max_length: int | None,
    device: str,
    progress: Progress | None = None,
) -> Sight | None:
    """Score the answers of conversations about one picture each; None when these are of fewer than two pictures.

    The other picture of a sample is that of another sample, always the same one, so the result repeats. Without a
    picture the first token of an answer may have nothing before it (template `plain`): such a token counts under no
    condition.

    Raises:
        DataError: a picture is missing or unreadable.
    """
    left_out: Counter[str] = Counter()
    chosen = _encode(conversations, encoder, max_length, left_out)
    names = [with_picture.images[0] for with_picture, _ in chosen]
    if len(set(names)) < 2:
        return None
    other = exchange(set(names))
    llava = llava_of(model)
    was_training = model.training
    model.eval()
    scores: dict[Condition, list[TokenScores]] = {}
    try:
        for condition in CONDITIONS:
            shown = [without if condition == "none" else with_picture for with_picture, without in chosen]
            if condition == "shuffled":
                shown = [replace(sample, images=(other[sample.images[0]],)) for sample in shown]
            scores[condition] = token_scores(
                llava,
                shown,
                _pixels(image_processor, image_root),
                statistics=pixel_statistics(image_processor),
                image_token_id=encoder.image_token_id,
                device=device,
                scored=_scored(progress, condition, len(chosen)),
            )
    finally:
        model.train(was_training)
    return _sight(scores, names, left_out)


def _encode(
    conversations: Sequence[Conversation], encoder: ChatEncoder, max_length: int | None, left_out: Counter[str]
) -> list[tuple[Encoded, Encoded]]:
    """Each usable conversation with its picture and without."""
    chosen = []
    for conversation in conversations:
        if len(conversation.images) != 1:
            left_out["text only" if not conversation.images else "several pictures"] += 1
            continue
        try:
            with_picture = encoder.encode(conversation, max_length)
            without = encoder.encode(_without_picture(conversation), max_length)
        except SampleRejected as error:
            left_out[error.reason] += 1
            continue
        if with_picture.dropped_turns or without.dropped_turns:
            # Cut at different turns, the two would not be about the same tokens.
            left_out["too_long"] += 1
        elif not sum(without.assistant_mask[1:]):
            left_out["no_trained_token"] += 1
        else:
            chosen.append((with_picture, without))
    return chosen


def _without_picture(conversation: Conversation) -> Conversation:
    messages: list[Message] = [
        {"role": message["role"], "content": [part for part in message["content"] if part["type"] != "image"]}
        for message in conversation.messages
    ]
    return replace(conversation, images=(), messages=tuple(messages))


def _pixels(image_processor: BaseImageProcessor, image_root: Path) -> Callable[[str], Pixels]:
    def read(name: str) -> Pixels:
        return to_pixels(image_processor, open_image(resolve_image(image_root, name)))

    return read


def _scored(progress: Progress | None, condition: Condition, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(condition, done, total)


def _sight(scores: Mapping[Condition, list[TokenScores]], pictures: list[str], left_out: Counter[str]) -> Sight:
    counts = [min(len(each.loss) for each in same) for same in zip(*scores.values(), strict=True)]
    kept = {name: [s.last(n) for s, n in zip(found, counts, strict=True)] for name, found in scores.items()}
    losses = {name: [float(each.loss.sum()) for each in found] for name, found in kept.items()}
    hits = {name: [float(each.right.sum()) for each in found] for name, found in kept.items()}
    weights = [float(count) for count in counts]
    conditions = {
        name: Seen(ratio_estimate(losses[name], weights, pictures), ratio_estimate(hits[name], weights, pictures))
        for name in kept
    }
    return Sight(
        conditions=conditions,
        shuffled_costs=paired_difference(losses["right"], losses["shuffled"], pictures, weights=weights),
        none_costs=paired_difference(losses["right"], losses["none"], pictures, weights=weights),
        samples=len(pictures),
        pictures=len(set(pictures)),
        left_out=dict(left_out),
    )
