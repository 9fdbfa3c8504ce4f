"""After the last step: does the picture matter to the model at all?"""

from __future__ import annotations

from pathlib import Path

from qllava.data.chat_template import PLAIN
from qllava.data.images import read_pixels
from qllava.data.steps import Conversations
from qllava.errors import DataError
from qllava.evaluate.ask import check_pictures
from qllava.evaluate.held_out import HELD_OUT, HeldOut, read_held_out
from qllava.evaluate.sees import Sight, sees
from qllava.train.callbacks import TrainView
from qllava.train.parts import Parts
from qllava.train.request import TrainRequest
from qllava.train.samples import Samples
from qllava.types import Conversation

# Enough samples for a stable mean, few enough to cost seconds.
LOOK_SAMPLES = 32


def look(request: TrainRequest, samples: Samples, parts: Parts, view: TrainView) -> Sight | None:
    """Score a few samples with the right picture, another one, and none; None where fewer than two pictures are there.

    They are questions held out beside the data; without any, or where the template drops questions, a few of the
    samples trained on, spread over the data.
    """
    held = _held_out(request, parts, view) or HeldOut(
        _some(samples.conversations), request.data.image_root, "samples trained on"
    )
    return sees(
        parts.model,
        _readable(held, parts),
        encoder=parts.encoder,
        image_processor=parts.image_processor,
        image_root=held.image_root,
        max_length=request.recipe.data.max_length,
        device=parts.device,
    )


def _readable(held: HeldOut, parts: Parts) -> list[Conversation]:
    """Those whose pictures can be read: one that broke meanwhile must not cost the run its last line."""
    names = (name for conversation in held.conversations for name in conversation.images)
    readable, _ = read_pixels(parts.image_processor, held.image_root, names)
    return [c for c in held.conversations if all(name in readable for name in c.images)]


def _held_out(request: TrainRequest, parts: Parts, view: TrainView) -> HeldOut | None:
    path = Path(request.data.path).with_name(HELD_OUT)
    if not path.is_file() or parts.encoder.template.name == PLAIN:
        return None
    try:
        held = read_held_out(path, None, limit=LOOK_SAMPLES)
        check_pictures((name for each in held.conversations for name in each.images), held.image_root)
        return held
    except DataError as error:
        # Hours of training do not end in an error over a file that training did not need.
        view.note("held-out questions", "not used", str(error))
        return None


def _some(conversations: Conversations) -> list[Conversation]:
    stride = max(1, len(conversations) // LOOK_SAMPLES)
    return [conversations[i] for i in range(0, len(conversations), stride)][:LOOK_SAMPLES]
