"""After the last step: does the picture matter to the model at all?"""

from __future__ import annotations

from qllava.evaluate.sees import PictureGain, picture_gain
from qllava.train.parts import Parts
from qllava.train.request import TrainRequest
from qllava.train.samples import Samples

# Enough pictures for a stable mean, few enough to cost seconds.
LOOK_SAMPLES = 32


def look(
    request: TrainRequest,
    samples: Samples,
    parts: Parts,
) -> PictureGain | None:
    """Score a few samples, spread over the data, with the right and with another picture."""
    conversations = samples.conversations
    stride = max(1, len(conversations) // LOOK_SAMPLES)
    chosen = [conversations[i] for i in range(0, len(conversations), stride)][:LOOK_SAMPLES]
    return picture_gain(
        parts.model,
        chosen,
        encoder=parts.encoder,
        image_processor=parts.image_processor,
        image_root=request.data.image_root,
        max_length=request.recipe.data.max_length,
        device=parts.device,
    )
