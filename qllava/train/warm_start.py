"""Stage 1's start: the projector is fitted to the captions before its first step (`align_start: captions`)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from qllava.checkpoint.saved import checkpoint_folders
from qllava.checkpoint.weights import llava_of
from qllava.data.encode import ChatEncoder, Encoded, SampleRejected
from qllava.data.images import normalize, pixel_statistics, read_pixels
from qllava.data.steps import Conversations
from qllava.datagen.noun_phrases import can_name
from qllava.model.forward import tower_features
from qllava.model.warm_start import fit_to_words
from qllava.train.callbacks import TrainView
from qllava.train.parts import Parts
from qllava.train.request import TrainRequest
from qllava.train.samples import Samples

# A cap on time: the tower runs over the picture of each.
MOST_SAMPLES = 4000
# Pictures the tower sees at a time.
_AT_ONCE = 64
# A word counts as told by the pictures from this explained share of its variance on.
WORD_TOLD = 0.1


def fit_to_captions(
    model: LlavaForConditionalGeneration,
    conversations: Conversations,
    *,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
    image_root: Path,
    max_length: int,
    device: str,
) -> dict[int, float]:
    """Fit a fresh projector to the naming words of a spread of caption samples with one picture each.

    Returns:
        Token id -> share of the word's variance over the captions that the pictures explain, 0-1; see `fit_to_words`.
    """
    samples = _samples(conversations, encoder, max_length)
    if not samples:
        return {}
    projector = model.model.multi_modal_projector
    statistics = pixel_statistics(image_processor)

    kept: list[Encoded] = []
    sums: list[torch.Tensor] = []
    some_features: torch.Tensor | None = None
    for start in range(0, len(samples), _AT_ONCE):
        chunk = samples[start : start + _AT_ONCE]
        readable, _ = read_pixels(image_processor, image_root, (sample.images[0] for sample in chunk))
        chunk = [sample for sample in chunk if sample.images[0] in readable]  # training names the others
        if not chunk:
            continue
        pixels = torch.from_numpy(np.stack([readable[sample.images[0]] for sample in chunk]))
        features = tower_features(model, normalize(pixels.to(device), *statistics)).float()
        some_features = features if some_features is None else some_features
        sums.append(features.sum(1))
        kept += chunk
    if some_features is None:
        return {}
    # Articles and prepositions stand beside everything and would be found in every patch.
    tokenizer = encoder.tokenizer
    namings = {i for i in set().union(*(s.input_ids for s in kept)) if _names(str(tokenizer.decode([i])))}
    namings -= set(tokenizer.all_special_ids)
    captions = [
        [id_ for id_, trained in zip(s.input_ids, s.assistant_mask, strict=True) if trained and id_ in namings]
        for s in kept
    ]
    embedding = cast(torch.Tensor, model.get_input_embeddings().weight)
    return fit_to_words(projector, torch.cat(sums), captions, embedding, features=some_features)


def _samples(conversations: Conversations, encoder: ChatEncoder, max_length: int) -> list[Encoded]:
    stride = -(-len(conversations) // MOST_SAMPLES)
    samples = []
    for index in range(0, len(conversations), stride):
        try:
            encoded = encoder.encode(conversations[index], max_length)
        except SampleRejected:
            continue  # counted and named by training itself
        if len(encoded.images) == 1:
            samples.append(encoded)
    return samples


def _names(text: str) -> bool:
    word = text.strip().lower()
    return bool(word) and can_name(word)


def start_projector(
    request: TrainRequest,
    folder: Path,
    samples: Samples,
    parts: Parts,
    view: TrainView,
) -> None:
    """Fit a new projector to the captions where the recipe says so; one that was trained already is left alone."""
    if request.stage != "align" or request.recipe.align_start == "random" or checkpoint_folders(folder):
        return
    view.status("fitting the projector to the captions")
    fit = fit_to_captions(
        llava_of(parts.model),
        samples.conversations,
        encoder=parts.encoder,
        image_processor=parts.image_processor,
        image_root=request.data.image_root,
        max_length=request.recipe.data.max_length,
        device=parts.device,
    )
    if not any(fit.values()):
        view.note("projector start", "random", "no word that enough captions have follows from the pictures")
        return
    told = sum(share >= WORD_TOLD for share in fit.values())
    why = f"the pictures tell {told} of its {len(fit)} frequent words"
    view.note("projector start", "fitted to the captions", why, "--set align_start=random")
