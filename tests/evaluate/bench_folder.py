"""Miniature LLaVA-Bench folders in both published layouts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.infer.tiny_run import picture

CATEGORIES = ("conv", "detail", "complex")


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(number: int) -> list[dict[str, Any]]:
    """Three about each picture, one of each category."""
    return [
        {
            "question_id": n,
            "image": f"{n // 3:03d}.jpg",
            "text": f"What about {n}?",
            "category": CATEGORIES[n % 3],
        }
        for n in range(number)
    ]


def candidate(number: int) -> dict[str, str]:
    """Answers of a candidate."""
    return {str(n): f"candidate's answer {n}" for n in range(number)}


def write_wild(folder: Path, number: int = 6) -> Path:
    """questions.jsonl, context.jsonl, answers_gpt4.jsonl, images/."""
    asked = questions(number)
    write_lines(folder / "questions.jsonl", asked)
    references = [{"question_id": q["question_id"], "text": f"reference {q['question_id']}"} for q in asked]
    write_lines(folder / "answers_gpt4.jsonl", references)
    names = sorted({q["image"] for q in asked})
    write_lines(folder / "context.jsonl", [{"id": n, "image": n, "caption": f"A description of {n}."} for n in names])
    (folder / "images").mkdir()
    for index, name in enumerate(names):
        picture(50 * index).save(folder / "images" / name)
    return folder


def write_coco(folder: Path, number: int = 6) -> Path:
    """The names of COCO-90; pictures with COCO's prefix."""
    asked = questions(number)
    write_lines(folder / "qa90_questions.jsonl", asked)
    references = [{"question_id": q["question_id"], "text": f"reference {q['question_id']}"} for q in asked]
    write_lines(folder / "qa90_gpt4_answer.jsonl", references)
    names = sorted({q["image"] for q in asked})
    box = {"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}
    rows = [{"id": n, "image": n, "captions": ["one", "two"], "instances": [box]} for n in names]
    write_lines(folder / "caps_boxes_coco2014_val_80.jsonl", rows)
    rules = {name: {"role": "Assistant", "prompt": f"Rule of {name}."} for name in (*CATEGORIES, "coding")}
    (folder / "rule.json").write_text(json.dumps(rules))
    for index, name in enumerate(names):
        picture(50 * index).save(folder / f"COCO_val2014_{name}")
    return folder
