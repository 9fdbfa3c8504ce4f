"""A small loss on held-out questions at each save: tells which checkpoint is the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qllava.checkpoint.weights import llava_of
from qllava.data.collator import collate_step
from qllava.data.images import normalize, pixel_statistics
from qllava.data.steps import StepBuilder, StepPlan
from qllava.errors import DataError
from qllava.evaluate.questions import Question, read_questions
from qllava.model.forward import loss_sum
from qllava.model.precision import autocast
from qllava.train.callbacks import TrainView
from qllava.train.parts import Parts
from qllava.train.request import TrainRequest
from qllava.types import IMAGE, Conversation, text

HELDOUT_FILE = "heldout.jsonl"
# Forward passes without gradients over this many questions: a fraction of one training step.
HELDOUT_SAMPLES = 16


def heldout_loss(
    request: TrainRequest, builder: StepBuilder, parts: Parts, view: TrainView
) -> Callable[[], float] | None:
    """What measures the mean loss (nats a supervised token) on a spread of the data folder's held-out questions.

    None in stage 1, which learns captions while these are questions, and where there are no such questions. It changes
    nothing that training sees: no gradient, no dropout, no random number, the same samples every time.

    Args:
        builder: of the training steps; its encoder, image folder and image processor are used.
    """
    path = Path(request.data.path).with_name(HELDOUT_FILE)
    if request.stage != "finetune" or not path.is_file():
        return None
    try:
        questions = read_questions(path)
        chosen = questions[:: -(-len(questions) // HELDOUT_SAMPLES)]
        row = replace(
            builder,
            conversations=[_conversation(question) for question in chosen],
            plan=StepPlan(np.arange(len(chosen)), np.asarray([0, len(chosen)])),
        ).build(0)
    except DataError as error:
        view.note("held-out loss", "not measured", str(error))
        return None
    step = collate_step([row])
    if not step["supervised"]:
        view.note("held-out loss", "not measured", f"none of the questions in {path} can be used")
        return None
    view.note("held-out loss", "at each save", f"{step['samples']} of the {len(questions)} questions in {path}")
    statistics = pixel_statistics(parts.image_processor)
    llava = llava_of(parts.model)

    @torch.no_grad()
    def measure() -> float:
        was_training = parts.model.training
        parts.model.eval()
        total = 0.0
        for pack in step["packs"]:
            moved = {name: tensor.to(parts.device) for name, tensor in pack.items()}
            if "pixel_values" in moved:
                moved["pixel_values"] = normalize(moved["pixel_values"], *statistics)
            with autocast(parts.device):
                total += float(loss_sum(llava, moved)[0])
        parts.model.train(was_training)
        return total / int(step["supervised"])

    return measure


def _conversation(question: Question) -> Conversation:
    asked = [text(question.question)] if question.image is None else [IMAGE, text(question.question)]
    return Conversation(
        id=question.id,
        images=() if question.image is None else (question.image,),
        messages=(
            {"role": "user", "content": asked},
            {"role": "assistant", "content": [text(question.answers[0])]},
        ),
    )
