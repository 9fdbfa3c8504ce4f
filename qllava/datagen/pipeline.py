"""From a folder of annotated pictures to a data folder: read, choose, teach, write.

Facts are taken from one scene at a time, so memory holds the annotations and nothing that grows with the answers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from qllava.datagen.captions import CaptionReader
from qllava.datagen.card import CARD, SCHEMA_VERSION, Report, card_json, image_root, readme
from qllava.datagen.facts import Facts, extract_facts
from qllava.datagen.instructions import BRIEF_INSTRUCTIONS
from qllava.datagen.lessons import KINDS, Kind, Lesson
from qllava.datagen.sources import Scene, Source, read_coco
from qllava.datagen.store import Folder, ListFile
from qllava.datagen.template_teacher import measure_priors, seeded, teach
from qllava.errors import DataError, UsageError

TEACHERS = ("template",)
DEFAULT_KINDS: tuple[Kind, ...] = ("conversation", "detail")
DEFAULT_QUESTIONS = 6
_PLACEHOLDER = "<image>"
_OURS = ("align.json", "instruct.json", "heldout.jsonl", "rejected.jsonl", "responses.jsonl")

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""


def generate(
    images: Path,
    annotations: Path | None = None,
    out: Path = Path("data"),
    teacher: str = "template",
    limit: int | None = None,
    seed: int = 42,
    questions: int = DEFAULT_QUESTIONS,
    kinds: Sequence[str] = DEFAULT_KINDS,
    progress: Progress | None = None,
) -> Report:
    """Write `align.json`, `instruct.json`, `heldout.jsonl` and what goes with them into `out`.

    Args:
        images: COCO folder, see `qllava.datagen.sources`.
        annotations: annotation folder or file, when it is not in or beside `images`.
        out: the data folder; files of an earlier gen-data there are replaced, others left alone.
        teacher: one of `TEACHERS`.
        limit: at most this many training pictures, and as many held-out ones, chosen by hash.
        seed: chooses wordings, captions and the pictures within `limit`; never what is held out.
        questions: short questions a picture, at most.
        kinds: some of `lessons.KINDS`.
        progress: told after each picture.

    Raises:
        UsageError: a setting that cannot work, or a folder that is not there.
        DataError: annotations that cannot be read or hold nothing to teach.
    """
    chosen_kinds = check_settings(teacher, limit, questions, kinds)
    _refuse_foreign(out)
    source = read_coco(images, annotations)
    train = _limited([scene for scene in source.scenes if not scene.held_out], limit, seed)
    held_out = _limited([scene for scene in source.scenes if scene.held_out], limit, seed)
    if not train:
        raise DataError(f"{images} has {len(source.scenes)} annotated pictures, none to train on; give at least 2")
    with Folder(out) as folder:
        writer = _Writer(folder, source, seed)
        priors = measure_priors(train)
        readers: dict[int, CaptionReader] = {}
        for done, scene in enumerate((*train, *held_out), start=1):
            wanted: Sequence[Kind] = chosen_kinds if not scene.held_out else ("conversation",)
            usable = replace(scene, captions=writer.usable_captions(scene))
            vocabulary = id(scene.categories)  # one mapping a split
            if vocabulary not in readers:
                readers[vocabulary] = CaptionReader(scene.categories)
            facts = extract_facts(usable, readers[vocabulary])
            writer.write(usable, facts, teach(scene.id, facts, priors, seed, questions, wanted))
            if progress is not None:
                progress(done, len(train) + len(held_out))
        report = writer.report(out, teacher, questions, chosen_kinds, len(train), len(held_out))
        if not sum(report.by_kind.values()):
            raise DataError(
                f"no question follows from the annotations of {images}; "
                f"add instances_*.json (boxes) to the captions, or another of --kinds {','.join(KINDS)}"
            )
        report = replace(report, files={**report.files, "README.md": folder.text("README.md", readme(report))})
        folder.text(CARD, card_json(report, image_root(images, out)))
        folder.commit()
    return report


def check_settings(teacher: str, limit: int | None, questions: int, kinds: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds in their usual order.

    Raises:
        UsageError: an unknown teacher or kind, or a number below its least value.
    """
    if teacher not in TEACHERS:
        raise UsageError(f"--teacher {teacher!r} is not known; choose one of: {', '.join(TEACHERS)}")
    unknown = [kind for kind in kinds if kind not in get_args(Kind)]
    if unknown or not kinds:
        given = unknown[0] if unknown else ""
        raise UsageError(f"--kinds {given!r} is not known; choose some of: {','.join(KINDS)}")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves no picture; give 1 or more")
    if questions < 1:
        raise UsageError(f"--questions {questions} asks nothing; give 1 or more, or leave conversation out of --kinds")
    return tuple(kind for kind in KINDS if kind in kinds)


class _Writer:
    """Scenes and lessons into the open files of a folder, counting as it goes."""

    def __init__(self, folder: Folder, source: Source, seed: int) -> None:
        self._folder = folder
        self._source = source
        self._seed = seed
        self._files: dict[str, ListFile] = {name: folder.list_file(name) for name in _OURS}
        self._kinds: Counter[str] = Counter()
        self._types: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        for split, listed in source.absent_splits.items():
            self._files["rejected.jsonl"].append({"reason": "split not on disk", "split": split, "pictures": listed})
        for file_name in source.missing:
            self._files["rejected.jsonl"].append({"reason": "picture not on disk", "image": file_name})

    def usable_captions(self, scene: Scene) -> tuple[str, ...]:
        """The captions that can be learnt; one that holds the image placeholder would become a second picture."""
        usable: list[str] = []
        for caption in scene.captions:
            if _PLACEHOLDER in caption.lower():
                self._reject(scene, "caption holds <image>", caption=caption)
            elif caption:
                usable.append(caption)
            else:
                self._reject(scene, "empty caption")
        return tuple(usable)

    def write(self, scene: Scene, facts: Facts, lessons: Sequence[Lesson]) -> None:
        """All that is known about one scene, each part in its file."""
        if not lessons:
            self._reject(scene, "no certain fact")
        if scene.held_out:
            for index, lesson in enumerate(lessons):
                self._files["heldout.jsonl"].append(_question(scene, lesson, index))
        else:
            self._write_caption(scene)
            for index, lesson in enumerate(lessons):
                self._kinds[lesson.kind] += 1
                self._types[lesson.type] += 1
                self._files["instruct.json"].append(_sample(scene, lesson, index))
        self._files["responses.jsonl"].append(
            {
                "id": scene.id,
                "image": scene.image,
                "teacher": "template",
                "held_out": scene.held_out,
                "facts": facts.record(),
                "answers": [
                    {"kind": lesson.kind, "type": lesson.type, "question": lesson.question, "answer": lesson.answer}
                    for lesson in lessons
                ],
            }
        )

    def report(
        self, out: Path, teacher: str, questions: int, kinds: tuple[Kind, ...], pictures: int, held_out: int
    ) -> Report:
        """Close the files and sum up."""
        return Report(
            out=out,
            teacher=teacher,
            model=None,
            seed=self._seed,
            questions=questions,
            kinds=kinds,
            pictures=pictures,
            held_out=held_out,
            held_out_rule=self._source.held_out_rule,
            held_out_questions=self._files["heldout.jsonl"].entries,
            missing=len(self._source.missing),
            absent_splits=self._source.absent_splits,
            captions=self._files["align.json"].entries,
            by_kind={kind: self._kinds[kind] for kind in kinds},
            by_type=dict(sorted(self._types.items())),
            rejected=dict(sorted(self._rejected.items())),
            files=self._folder.finish(),
        )

    def _write_caption(self, scene: Scene) -> None:
        if not scene.captions:
            self._reject(scene, "no caption to align with")
            return
        rng = seeded(self._seed, scene.id, "caption")
        caption, instruction = rng.choice(scene.captions), rng.choice(BRIEF_INSTRUCTIONS)
        self._files["align.json"].append(
            _conversation(scene.id, scene.image, instruction, caption) | {"kind": "caption"}
        )

    def _reject(self, scene: Scene, reason: str, **more: str) -> None:
        self._rejected[reason] += 1
        self._files["rejected.jsonl"].append({"reason": reason, "id": scene.id, "image": scene.image, **more})


def _conversation(identity: str, image: str, question: str, answer: str) -> dict[str, Any]:
    """One sample in LLaVA's schema."""
    turns = [{"from": "human", "value": f"{_PLACEHOLDER}\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": identity, "image": image, "conversations": turns}


def _sample(scene: Scene, lesson: Lesson, index: int) -> dict[str, Any]:
    sample = _conversation(f"{scene.id}#{index}", scene.image, lesson.question, lesson.answer)
    return sample | {"kind": lesson.kind, "type": lesson.type}


def _question(scene: Scene, lesson: Lesson, index: int) -> dict[str, Any]:
    return {
        "id": f"{scene.id}#{index}",
        "image": scene.image,
        "question": lesson.question,
        "answers": list(lesson.accepted),
        "kind": lesson.kind,
        "type": lesson.type,
    }


def _limited(scenes: list[Scene], limit: int | None, seed: int) -> list[Scene]:
    """At most `limit` scenes, the same ones for the same seed, in their order."""
    if limit is None or len(scenes) <= limit:
        return scenes
    ranked = sorted(scenes, key=lambda scene: hashlib.sha256(f"{seed}/{scene.id}".encode()).hexdigest())
    kept = {scene.id for scene in ranked[:limit]}
    return [scene for scene in scenes if scene.id in kept]


def _refuse_foreign(out: Path) -> None:
    """Never write over data that gen-data did not make.

    Raises:
        UsageError: `out` is a file, or holds data without our card.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    there = [name for name in _OURS if (out / name).exists()]
    if not there:
        return
    try:
        card = json.loads((out / CARD).read_text(encoding="utf-8"))
        ours = card["schema_version"] == SCHEMA_VERSION and card["teacher"] in TEACHERS
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UsageError(
            f"{out / there[0]} was not written by the template teacher; choose another --out or move it away"
        )
