"""What a data folder says about itself: `card.json` for programs, `README.md` for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qllava.datagen.lessons import Kind
from qllava.datagen.money import Usage

SCHEMA_VERSION = 1
CARD = "card.json"


@dataclass(frozen=True, slots=True)
class Report:
    """What one generation did.

    `source` is the kind that was read; `pictures`, `held_out`, `missing` are numbers of pictures; `by_kind` and
    `by_type` count instruction samples; `held_out_questions` evaluation questions; `rejected` counts by reason; `files`
    maps name to sha256. `target` is the most caption pairs that were wanted, `shard` which share this is (`i/n`),
    `unpacked` where the pictures of archives were put (None for neither). Of a language-model teacher: `endpoint` its
    address, `prompts` kind -> hash of what was the same in all its requests, `mix` the weights of the kinds, `answers`
    how many answers the data was made from, `usage` and `cost_usd` what these cost (None: the model has no known
    price), `unasked` how many samples a stopped run left for the next one.
    """

    out: Path
    source: str
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
    endpoint: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    mix: Mapping[Kind, float] = field(default_factory=dict)
    answers: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = 0.0
    unasked: int = 0
    target: int | None = None
    shard: str | None = None
    unpacked: Path | None = None


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
        "source": report.source,
        **({} if report.shard is None else {"shard": report.shard}),
        "teacher": report.teacher,
        "model": report.model,
        "seed": report.seed,
        "questions": report.questions,
        "kinds": list(report.kinds),
        "target": report.target,
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
        "cost_usd": None if report.cost_usd is None else round(report.cost_usd, 6),
        "files": dict(report.files),
    }
    if report.model is not None:
        card["model_run"] = {
            "endpoint": report.endpoint,
            "prompts": dict(report.prompts),
            "mix": dict(report.mix),
            "answers": report.answers,
            "unasked": report.unasked,
            "usage": {
                "prompt_tokens": report.usage.prompt,
                "cached_tokens": report.usage.cached,
                "completion_tokens": report.usage.completion,
            },
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
`qllava gen-data` with seed {report.seed} from {report.source}; {_BEHIND[report.model is None]},
`rejected.jsonl` what was left out and why, `card.json` the counts and hashes.
{_pairs(report)}{_teacher(report)}
## Instruction samples
{kinds}
{types}
## Left out
{rejected}
{report.missing:,} listed pictures were not on disk.

## What it lacks
{_LACKS[report.model is None]}
{_LICENSE}"""


_BEHIND = {
    True: "`responses.jsonl` holds the facts behind every answer",
    False: "`responses.jsonl` holds every answer as it came",
}
_LACKS = {
    True: """\
The `template` teacher fills sentences from the captions and boxes of the annotations. Its facts are sure, its language
is not rich: fixed phrasings, one-word answers, no knowledge of the world, no actions beyond what captions say, nothing
that was not labelled. A model trained on it alone answers like a form. For conversation, add data that a language
model or people wrote (for example LLaVA-Instruct-150K).
""",
    False: """\
A language model wrote it. What contradicts the annotations was left out where a check could tell; what no check can
tell may still be wrong: the annotations do not name everything, and the model may have guessed. Look at some samples
before you train on them.
""",
}
_LICENSE = """## License
That of the annotations and captions it was made from (COCO's are CC BY 4.0; the pictures have licences of their own).
Fill in yours.
"""


def _pairs(report: Report) -> str:
    """How the caption pairs were chosen, where they were; empty for one a picture."""
    if report.target is None:
        return ""
    return f"""
The caption pairs are at most {report.target:,}, chosen so that concepts are balanced: noun phrases from the rarest up
(of those in 3 captions or more), of one in more than 100 captions a random 100.
"""


def _teacher(report: Report) -> str:
    """How a language model was asked, and what it cost; empty for the template teacher."""
    if report.model is None:
        return ""
    cost = "no known price" if report.cost_usd is None else f"{report.cost_usd:,.2f} USD by the listed prices"
    unasked = f" {report.unasked:,} samples were not asked for yet: the run was stopped." if report.unasked else ""
    return f"""
## Teacher
`{report.model}` at {report.endpoint}: {report.answers:,} answers, {report.usage.prompt:,} prompt tokens
({report.usage.cached:,} of them cached) and {report.usage.completion:,} answer tokens, {cost}.{unasked}
The terms of the model and of its provider say what may be done with its answers.
"""


def _table(name: str, counts: Mapping[str, int]) -> str:
    rows = "\n".join(f"| {key} | {value:,} |" for key, value in counts.items())
    return f"| {name} | number |\n|---|---:|\n{rows}\n"
