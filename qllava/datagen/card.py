"""What a data folder says about itself: `card.json` for programs, `README.md` for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
CARD = "card.json"


@dataclass(frozen=True, slots=True)
class Report:
    """What one generation did.

    `pictures`, `held_out`, `missing` are numbers of pictures; `by_kind` and `by_type` count instruction samples;
    `held_out_questions` evaluation questions; `rejected` counts by reason; `files` maps name to sha256.
    """

    out: Path
    teacher: str
    model: str | None
    seed: int
    questions: int
    kinds: tuple[str, ...]
    pictures: int
    held_out: int
    held_out_rule: str
    held_out_questions: int
    missing: int
    absent_splits: Mapping[str, int]
    captions: int
    by_kind: Mapping[str, int]
    by_type: Mapping[str, int]
    rejected: Mapping[str, int]
    files: Mapping[str, str]


def image_root(images: Path, out: Path) -> str:
    """The image folder as the card names it: relative to the card's folder, unless they share nothing but `/`."""
    here, there = out.resolve(), images.resolve()
    shared = os.path.commonpath((here, there))
    return there.as_posix() if shared == here.anchor else Path(os.path.relpath(there, here)).as_posix()


def card_json(report: Report, root: str) -> str:
    """The card: counts, hashes, and where the pictures are. No date in it: the same input gives the same bytes."""
    card: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "image_root": root,
        "teacher": report.teacher,
        "model": report.model,
        "seed": report.seed,
        "questions": report.questions,
        "kinds": list(report.kinds),
        "counts": {
            "pictures": report.pictures,
            "captions": report.captions,
            "instructions": sum(report.by_kind.values()),
            "by_kind": dict(report.by_kind),
            "by_type": dict(report.by_type),
            "held_out_pictures": report.held_out,
            "held_out_questions": report.held_out_questions,
            "missing_pictures": report.missing,
            "absent_splits": dict(report.absent_splits),
            "rejected": dict(report.rejected),
        },
        "held_out_rule": report.held_out_rule,
        "cost_usd": 0.0,
        "files": dict(report.files),
    }
    return json.dumps(card, ensure_ascii=False, indent=2) + "\n"


def readme(report: Report) -> str:
    """The data card in words."""
    kinds = _table("kind", report.by_kind)
    types = _table("type", report.by_type)
    rejected = _table("reason", report.rejected) if report.rejected else "None.\n"
    return f"""---
license: other
license_name: that-of-the-annotations
tags: [llava, visual-instruction-tuning, synthetic]
---
# Instruction data written by the `{report.teacher}` teacher

{report.captions:,} caption pairs (`align.json`, stage 1) and {sum(report.by_kind.values()):,} instruction samples
(`instruct.json`, stage 2) about {report.pictures:,} pictures, in LLaVA's JSON format; {report.held_out_questions:,}
questions about {report.held_out:,} held-out pictures (`heldout.jsonl`: {report.held_out_rule}). Written by
`qllava gen-data` with seed {report.seed}; `responses.jsonl` holds the facts behind every answer, `rejected.jsonl` what
was left out and why, `card.json` the counts and hashes.

## Instruction samples
{kinds}
{types}
## Left out
{rejected}
{report.missing:,} listed pictures were not on disk.

## What it lacks
The `template` teacher fills sentences from the captions and boxes of the annotations. Its facts are sure, its language
is not rich: fixed phrasings, one-word answers, no knowledge of the world, no actions beyond what captions say, nothing
that was not labelled. A model trained on it alone answers like a form. For conversation, add data that a language
model or people wrote (for example LLaVA-Instruct-150K).

## License
That of the annotations and captions it was made from (COCO's are CC BY 4.0; the pictures have licences of their own).
Fill in yours.
"""


def _table(name: str, counts: Mapping[str, int]) -> str:
    rows = "\n".join(f"| {key} | {value:,} |" for key, value in counts.items())
    return f"| {name} | number |\n|---|---:|\n{rows}\n"
