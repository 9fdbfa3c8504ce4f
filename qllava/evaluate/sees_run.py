"""`sees` for a target: a run with the template its stage trained with, or a published model."""

from __future__ import annotations

from qllava.checkpoint.load import build_encoder
from qllava.data.chat_template import stage_template
from qllava.evaluate.held_out import HeldOut
from qllava.evaluate.sees import Progress, Sight, sees
from qllava.evaluate.target import Target
from qllava.infer.engine import Loaded


def sees_target(target: Target, loaded: Loaded, held: HeldOut, *, progress: Progress | None = None) -> Sight | None:
    """Score held-out samples; None where they are of fewer than two pictures.

    Raises:
        DataError: a picture is missing or unreadable.
    """
    encoder, max_length = loaded.encoder, None
    if target.run is not None:
        recipe = target.run.recipe
        name = stage_template(recipe.template, recipe.align_template, target.run.manifest.stage)
        if name != encoder.template.name:
            encoder = build_encoder(recipe, template=name)
        max_length = recipe.data.max_length
    return sees(
        loaded.model,
        held.conversations,
        encoder=encoder,
        image_processor=loaded.image_processor,
        image_root=held.image_root,
        max_length=max_length,
        device=loaded.device,
        progress=progress,
    )
