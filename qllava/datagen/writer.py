"""Scenes and what was taught about them into the open files of a data folder, counting as it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any, Literal

from qllava.datagen.instructions import BRIEF_INSTRUCTIONS
from qllava.datagen.lessons import Kind, Lesson, Turn
from qllava.datagen.question_types import question_type
from qllava.datagen.sources import Scene, Source
from qllava.datagen.store import Folder, ListFile
from qllava.datagen.template_teacher import seeded

PLACEHOLDER = "<image>"
WRITTEN = ("align.json", "instruct.json", "heldout.jsonl", "rejected.jsonl")
ImagePosition = Literal["first", "random"]


def caption_pair(scene: Scene, seed: int) -> tuple[str, str]:
    """(brief instruction, one of the scene's captions); there must be one."""
    rng = seeded(seed, scene.id, "caption")
    caption, instruction = rng.choice(scene.captions), rng.choice(BRIEF_INSTRUCTIONS)
    return instruction, caption


class Writer:
    """Writes scenes in the order given; `kinds` counts samples, `types` questions, `rejected` reasons."""

    def __init__(self, folder: Folder, source: Source, seed: int, image_position: ImagePosition = "first") -> None:
        self.kinds: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.files: dict[str, ListFile] = {name: folder.list_file(name) for name in WRITTEN}
        self._seed = seed
        self._image_position = image_position
        for split, listed in source.absent_splits.items():
            self.files["rejected.jsonl"].append({"reason": "split not on disk", "split": split, "pictures": listed})
        for file_name in source.missing:
            self.files["rejected.jsonl"].append({"reason": "picture not on disk", "image": file_name})
        for left_out in source.notes:
            # Without an id: it is about the whole source, which every shard reads (see `merge`).
            detail = {"detail": left_out.detail} if left_out.detail else {}
            self.rejected[left_out.reason] += 1
            self.files["rejected.jsonl"].append({"reason": left_out.reason, "image": left_out.name} | detail)

    def usable_captions(self, scene: Scene) -> tuple[str, ...]:
        """The captions that can be learnt; one that holds the image placeholder would become a second picture."""
        usable: list[str] = []
        for caption in scene.captions:
            if PLACEHOLDER in caption.lower():
                self.reject(scene, "caption holds <image>", caption=caption)
            elif caption:
                usable.append(caption)
            else:
                self.reject(scene, "empty caption")
        return tuple(usable)

    def write_held_out(self, scene: Scene, lessons: Sequence[Lesson]) -> None:
        """The questions about a held-out picture."""
        if not lessons:
            self.reject(scene, "no certain fact")
        for index, lesson in enumerate(lessons):
            self.files["heldout.jsonl"].append(
                {
                    "id": f"{scene.id}#{index}",
                    "image": scene.image,
                    "question": lesson.question,
                    "answers": list(lesson.accepted),
                    "kind": lesson.kind,
                    "type": lesson.type,
                }
            )

    def write_caption(self, scene: Scene, paired: Container[str] | None = None) -> None:
        """The caption pair of a picture, for stage 1; `paired` holds the ids that have one, None means all."""
        if not scene.captions:
            self.reject(scene, "no caption to align with")
            return
        instruction, caption = caption_pair(scene, self._seed)
        if paired is not None and scene.id not in paired:
            self.reject(scene, "caption not chosen for --target", caption=caption)
            return
        sample = self._sample(scene.id, scene.image, [Turn(instruction, caption)])
        self.files["align.json"].append(sample | {"kind": "caption"})

    def write_lessons(self, scene: Scene, lessons: Sequence[Lesson]) -> None:
        """One sample for each lesson of the template teacher."""
        if not lessons:
            self.reject(scene, "no certain fact")
        for index, lesson in enumerate(lessons):
            self.kinds[lesson.kind] += 1
            self.types[lesson.type] += 1
            sample = self._sample(f"{scene.id}#{index}", scene.image, [Turn(lesson.question, lesson.answer)])
            self.files["instruct.json"].append(sample | {"kind": lesson.kind, "type": lesson.type})

    def write_turns(self, scene: Scene, kind: Kind, turns: Sequence[Turn], origin: Mapping[str, Any]) -> None:
        """One sample that a language model wrote, with where it comes from."""
        types = [kind if kind != "conversation" else question_type(turn.question) for turn in turns]
        self.kinds[kind] += 1
        self.types.update(types)
        sample = self._sample(f"{scene.id}#{kind}", scene.image, turns)
        self.files["instruct.json"].append(sample | {"kind": kind, "type": types[0], **origin})

    def reject(self, scene: Scene, reason: str, **more: str) -> None:
        """Count and list something that is left out."""
        self.rejected[reason] += 1
        self.files["rejected.jsonl"].append({"reason": reason, "id": scene.id, "image": scene.image, **more})

    def _sample(self, identity: str, image: str, turns: Sequence[Turn]) -> dict[str, Any]:
        """One sample in LLaVA's schema."""
        conversation: list[dict[str, str]] = []
        for turn in turns:
            conversation.append({"from": "human", "value": turn.question})
            conversation.append({"from": "gpt", "value": turn.answer})
        last = self._image_position == "random" and seeded(self._seed, identity, "image position").random() < 0.5
        first = conversation[0]
        first["value"] = f"{first['value']}\n{PLACEHOLDER}" if last else f"{PLACEHOLDER}\n{first['value']}"
        return {"id": identity, "image": image, "conversations": conversation}
