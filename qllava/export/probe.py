"""What an export is compared on: conversations about pictures, held out from the run's training where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qllava.checkpoint.load import LoadedRun
from qllava.data.encode import Encoded, SampleRejected
from qllava.data.formats import load_conversations
from qllava.data.images import open_image, resolve_image
from qllava.errors import DataError
from qllava.evaluate.questions import read_questions
from qllava.types import IMAGE, Conversation, text

HELD_OUT = "heldout.jsonl"
SAMPLES = 16
_LONGEST = 1024


@dataclass(frozen=True)
class Probe:
    """One conversation that ends with an answer, its picture, and its tokens under the run's encoder."""

    conversation: Conversation
    picture: Image.Image
    encoded: Encoded


@dataclass(frozen=True)
class Probes:
    """Some of them, and in words where they come from."""

    samples: tuple[Probe, ...]
    origin: str

    @property
    def supervised(self) -> int:
        """Tokens that are predicted."""
        return sum(sum(probe.encoded.assistant_mask) for probe in self.samples)


def choose_probes(loaded: LoadedRun, count: int = SAMPLES) -> Probes:
    """Held-out questions beside the run's data, else samples of that data, else drawn pictures with fixed answers."""
    data: dict[str, Any] = loaded.run.manifest.data
    path, root = Path(str(data.get("path", ""))), Path(str(data.get("image_root", "")))
    held_out = path.parent / HELD_OUT
    if held_out.is_file() and root.is_dir():
        questions = [question for question in read_questions(held_out) if question.image is not None]
        conversations = [
            _exchange(question.id, question.image or "", question.question, question.answers[0])
            for question in _spread(questions, count)
        ]
        return Probes(_encoded(conversations, root, loaded), f"held-out questions of {held_out}")
    if path.is_file() and root.is_dir():
        table = load_conversations(str(path), image_root=root)
        rows = (table[index] for index in _spread(range(len(table)), 8 * count))
        pictured = [row for row in rows if len(row.images) == 1]
        return Probes(_encoded(_spread(pictured, count), root, loaded), f"samples of {path}")
    return Probes(_drawn(loaded, count), "drawn pictures, since the run's data is not here")


def _exchange(identity: str, image: str, question: str, answer: str) -> Conversation:
    return Conversation(
        id=identity,
        messages=(
            {"role": "user", "content": [IMAGE, text(question)]},
            {"role": "assistant", "content": [text(answer)]},
        ),
        images=(image,),
    )


def _encoded(conversations: Sequence[Conversation], root: Path, loaded: LoadedRun) -> tuple[Probe, ...]:
    probes = []
    for conversation in conversations:
        try:
            encoded = loaded.encoder.encode(conversation, _LONGEST)
            picture = open_image(resolve_image(root, conversation.images[0]))
        except (SampleRejected, DataError):
            continue  # training has named it; any other sample does as well here
        probes.append(Probe(conversation, picture, encoded))
    if not probes:
        raise DataError(f"none of the samples below {root} can be used to compare the export with the run")
    return tuple(probes)


def _drawn(loaded: LoadedRun, count: int) -> tuple[Probe, ...]:
    answers = ("Two dogs run on a beach.", "yes", "A red bus stands on the left.", "three", "It is a kitchen.")
    probes = []
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)
        conversation = _exchange(f"drawn-{index}", "", "What is in the picture?", answers[index % len(answers)])
        probes.append(Probe(conversation, picture, loaded.encoder.encode(conversation, _LONGEST)))
    return tuple(probes)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them at even distances."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
