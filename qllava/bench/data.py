"""Synthetic training data with the lengths and the sharing of LLaVA's, the same on every machine.

Stage 2: 58 conversations to 23 descriptions to 77 reasoning samples (LLaVA, section 3), 1.95 samples a picture
(158k over 81k), answers of log-normal lengths around 230 tokens in all. Stage 1: one caption a picture, about 20
tokens.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from qllava.types import STAGE_FILES, Stage

KINDS = {"conversation": 58, "detail": 23, "reasoning": 77}
SAMPLES_A_PICTURE = 1.95
# Common words, one token each in the tokenizers of all recipes.
_WORDS = (
    "the a of and in to with on is are two man woman people street table dog cat car tree water sky building "
    "small large white black red green blue near left right standing sitting holding walking looking while there "
    "which this that it they from at by for as an old young group front back side background image scene"
)
WORDS = tuple(_WORDS.split())
LONGEST = 1200
_ANSWER_WORDS = 215.0
_QUESTION_WORDS = 8.0
_LONGEST_QUESTION = 20
_CAPTION_WORDS = 18.0
_SIGMA = 0.5
_CAPTION_SIGMA = 0.3
_TURNS = 4
_PICTURE = (320, 240)


def write_data(folder: Path, *, stage: Stage, samples: int, longest: int = LONGEST, seed: int = 0) -> None:
    """Write the stage's file of `samples` samples in LLaVA's format, and their pictures, into `folder`.

    No sample has more than `longest` words: none is cut or left out, so that all contenders do the same work.
    """
    rng = np.random.default_rng(seed)
    rows = _captions(rng, samples) if stage == "align" else _instructions(rng, samples, longest)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for name in sorted({row["image"] for row in rows}):
        _write_picture(folder / "pictures" / name, rng)
    (folder / STAGE_FILES[stage]).write_text(json.dumps(rows), encoding="utf-8")


def _captions(rng: np.random.Generator, samples: int) -> list[dict[str, Any]]:
    return [
        _row(
            f"c{i}",
            f"{i}.jpg",
            "caption",
            [("<image>\nDescribe it.", _words(rng, _CAPTION_WORDS, _CAPTION_SIGMA, at_most=60))],
        )
        for i in range(samples)
    ]


def _instructions(rng: np.random.Generator, samples: int, longest: int = LONGEST) -> list[dict[str, Any]]:
    pictures = math.ceil(samples / SAMPLES_A_PICTURE)
    # Every picture once, then the rest at random, no more than three times each.
    of_picture = np.arange(pictures).tolist()
    extra = np.concatenate([rng.permutation(pictures), rng.permutation(pictures)])
    of_picture += extra[: samples - pictures].tolist()
    weights = np.array(list(KINDS.values())) / sum(KINDS.values())
    rows = []
    for index, picture in enumerate(of_picture[:samples]):
        kind = str(rng.choice(list(KINDS), p=weights))
        turns = _TURNS if kind == "conversation" else 1
        said = [
            (
                ("<image>\n" if turn == 0 else "") + _words(rng, _QUESTION_WORDS, 0.3) + "?",
                _words(rng, _ANSWER_WORDS / turns, _SIGMA, at_most=longest // turns - _LONGEST_QUESTION),
            )
            for turn in range(turns)
        ]
        rows.append(_row(f"{kind}{index}", f"{picture}.jpg", kind, said))
    return rows


def _row(identity: str, image: str, kind: str, said: list[tuple[str, str]]) -> dict[str, Any]:
    turns = [{"from": who, "value": text} for pair in said for who, text in zip(("human", "gpt"), pair, strict=True)]
    return {"id": identity, "image": image, "kind": kind, "conversations": turns}


def _words(rng: np.random.Generator, mean: float, sigma: float, at_most: int = _LONGEST_QUESTION) -> str:
    """Words, log-normally many, `mean` in the mean."""
    count = min(at_most, max(1, round(float(rng.lognormal(math.log(mean) - sigma**2 / 2, sigma)))))
    return " ".join(rng.choice(WORDS, size=count))


def _write_picture(path: Path, rng: np.random.Generator) -> None:
    from PIL import Image  # noqa: PLC0415

    coarse = rng.integers(0, 256, size=(12, 16, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(_PICTURE, Image.Resampling.BICUBIC).save(path, quality=90)
