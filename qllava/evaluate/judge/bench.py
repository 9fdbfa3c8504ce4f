"""The two layouts of LLaVA-Bench, as published: COCO-90 and In-the-Wild."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qllava.errors import DataError, UsageError
from qllava.files import sha256

Layout = Literal["coco", "wild"]
# Published names first; any one file that fits the pattern will do.
_QUESTIONS = ("questions.jsonl", "*questions*.jsonl")
_REFERENCES = ("answers_gpt4.jsonl", "*gpt4_answer*.jsonl", "*answer*gpt4*.jsonl")
_CONTEXT: dict[Layout, tuple[str, ...]] = {"wild": ("context.jsonl",), "coco": ("caps_boxes*.jsonl",)}
_PREFIXES = ("", "COCO_val2014_")  # COCO-90 names its pictures without what COCO puts in front


@dataclass(frozen=True, slots=True)
class BenchItem:
    """One question: `context` is what the judge is told about the picture, `reference` the answer to compare with."""

    id: str
    image: str
    question: str
    category: str
    context: str
    reference: str


@dataclass(frozen=True)
class Bench:
    """A question set; `rules` are the published instructions to the judge by category, empty where DIR has none.

    `digest` is the sha256 (hex) of its question file.
    """

    layout: Layout
    items: tuple[BenchItem, ...]
    image_root: Path
    rules: Mapping[str, str]
    digest: str

    @property
    def categories(self) -> list[str]:
        """In the order in which they come."""
        return list(dict.fromkeys(item.category for item in self.items))


def read_bench(folder: Path, images: Path | None = None) -> Bench:
    """Read a folder in either layout; which one it is, its context file tells.

    Args:
        folder: holds questions, context, reference answers, and for COCO-90 maybe `rule.json`.
        images: the pictures; `images/` in the folder, else the folder itself, unless given.

    Raises:
        UsageError: no such folder.
        DataError: a file is missing, a line does not fit, an id is used twice, a question has no context or reference.
    """
    for place in (folder, *([images] if images is not None else [])):
        if not place.is_dir():
            raise UsageError(f"{place} is not a folder; give the one of LLaVA-Bench")
    found = {layout: _find(folder, patterns) for layout, patterns in _CONTEXT.items()}
    layouts = [layout for layout, path in found.items() if path is not None]
    if len(layouts) != 1:
        what = "both context.jsonl and caps_boxes*.jsonl" if layouts else "neither context.jsonl nor caps_boxes*.jsonl"
        raise DataError(f"{folder} holds {what}; In-the-Wild has the first, COCO-90 the second")
    layout = layouts[0]
    questions = _need(folder, _QUESTIONS, "questions")
    contexts = _contexts(_need(folder, _CONTEXT[layout], "context"), layout)
    references = read_answers(_need(folder, _REFERENCES, "reference answers"))
    items: list[BenchItem] = []
    seen: set[str] = set()
    for where, row in read_lines(questions):
        identity = str(_get(row, "question_id", where))
        if identity in seen:
            raise DataError(f"{where}: question_id {identity} is used twice; ids must differ")
        seen.add(identity)
        image = str(_get(row, "image", where))
        if image not in contexts:
            raise DataError(f"{where}: no context for image {image}; the context file must be of the same set")
        if identity not in references:
            raise DataError(f"{where}: no reference answer to question {identity}; use the file of the same set")
        text, category = str(_get(row, "text", where)), str(_get(row, "category", where))
        items.append(BenchItem(identity, image, text, category, contexts[image], references[identity]))
    if not items:
        raise DataError(
            f"{questions} holds no question; one JSON object a line with question_id, image, text, category"
        )
    unknown = sorted(references.keys() - seen)
    if unknown:
        raise DataError(f"{len(unknown)} reference answers are to no question of {questions} (first: {unknown[0]})")
    beside = folder / "images"
    root = images or (beside if beside.is_dir() else folder)
    return Bench(layout, tuple(items), root, _rules(folder, layout), sha256(questions))


def picture_of(bench: Bench, item: BenchItem) -> Path:
    """The file of an item's picture; COCO's own prefix may stand before its name.

    Raises:
        DataError: there is none.
    """
    for prefix in _PREFIXES:
        path = bench.image_root / f"{prefix}{item.image}"
        if path.is_file():
            return path
    raise DataError(
        f"image {item.image} of question {item.id} is not in {bench.image_root}; give the folder with --images"
    )


def read_answers(path: Path) -> dict[str, str]:
    """Answers by question id from LLaVA's answer files: one object a line with `question_id` and `text`.

    Raises:
        DataError: no such file, nothing in it, a line without them, or an id used twice.
    """
    answers: dict[str, str] = {}
    for where, row in read_lines(path):
        identity = str(_get(row, "question_id", where))
        if identity in answers:
            raise DataError(f"{where}: question_id {identity} is answered twice; keep one")
        text = row.get("text")
        if not isinstance(text, str):
            raise DataError(f"{where}: text={text!r} is no answer; give a text")
        answers[identity] = text
    if not answers:
        raise DataError(f"{path} holds no answer; one JSON object a line with question_id and text")
    return answers


def read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of every line that is not blank.

    Raises:
        DataError: no such file, or a line that is no JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; check the path")
    rows: list[tuple[str, dict[str, Any]]] = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; give JSON lines") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except ValueError:
            hint = "; it is a git-lfs pointer, run `git lfs pull`" if text.startswith("version https://git-lfs") else ""
            raise DataError(f"{where} is not JSON{hint or '; write one object a line'}") from None
        if not isinstance(row, dict):
            raise DataError(f"{where} is {type(row).__name__}, not an object; write one a line")
        rows.append((where, row))
    return rows


def _contexts(path: Path, layout: Layout) -> dict[str, str]:
    """What the judge is told, by image: captions and `category: [x1, y1, x2, y2]` lines, or a description."""
    contexts: dict[str, str] = {}
    for where, row in read_lines(path):
        image = str(_get(row, "image", where))
        if layout == "wild":
            told = _get(row, "caption", where)
            # LLaVA's script joins the letters of this text with line breaks (eval_gpt_review_bench.py); we do not.
            contexts[image] = "\n".join(map(str, told)) if isinstance(told, list) else str(told)
            continue
        captions, instances = _get(row, "captions", where), row.get("instances") or []
        if not isinstance(captions, list) or not isinstance(instances, list):
            raise DataError(f"{where}: captions and instances must be lists")
        boxes = [f"{_get(box, 'category', where)}: {_get(box, 'bbox', where)}" for box in instances]
        contexts[image] = "\n".join(map(str, captions)) + "\n\n" + "\n".join(boxes)
    return contexts


def _rules(folder: Path, layout: Layout) -> dict[str, str]:
    """The prompts of `rule.json` by our category names; In-the-Wild's carry a prefix there."""
    path = folder / "rule.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        prefix = "llava_bench_" if layout == "wild" else ""
        named = {name.removeprefix(prefix): rule for name, rule in content.items() if name.startswith(prefix)}
        return {name: str(rule["prompt"]) for name, rule in named.items()}
    except (ValueError, AttributeError, TypeError, KeyError):
        raise DataError(f"{path} is no rule file ({{category: {{prompt: ...}}}}); get it anew or remove it") from None


def _find(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{folder} holds several files {pattern} ({names}); keep one of them there")
        if found:
            return found[0]
    return None


def _need(folder: Path, patterns: tuple[str, ...], what: str) -> Path:
    path = _find(folder, patterns)
    if path is None:
        raise DataError(f"{folder} holds no {what} ({' or '.join(patterns)}); get the set as LLaVA publishes it")
    return path


def _get(row: object, key: str, where: str) -> Any:
    value = row.get(key) if isinstance(row, Mapping) else None
    if value is None or value == "":
        raise DataError(f"{where} lacks `{key}`; get the file as LLaVA publishes it")
    return value
