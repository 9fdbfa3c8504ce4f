"""From annotated pictures to a data folder with the template teacher: read, choose, teach, write.

Facts are taken from one scene at a time, so memory holds the annotations and nothing that grows with the answers.
Language-model teachers go through `qllava.datagen.model_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from qllava.datagen.captions import CaptionReader
from qllava.datagen.card import CARD, Report, card_json, image_root, readme
from qllava.datagen.facts import Facts, extract_facts
from qllava.datagen.intake import take_in
from qllava.datagen.lessons import KINDS, Kind, Lesson
from qllava.datagen.lock import locked
from qllava.datagen.responses import RESPONSES
from qllava.datagen.selection import TEACHERS, check_settings, refuse_foreign
from qllava.datagen.sources import Scene
from qllava.datagen.store import Folder, ListFile
from qllava.datagen.template_teacher import teach
from qllava.datagen.writer import ImagePosition, Writer
from qllava.errors import DataError, UsageError

__all__ = ["DEFAULT_KINDS", "DEFAULT_QUESTIONS", "TEACHERS", "Progress", "Readers", "check_settings", "generate"]

DEFAULT_KINDS: tuple[Kind, ...] = ("conversation", "detail")
DEFAULT_QUESTIONS = 6

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
    image_position: ImagePosition = "first",
    shard: str | None = None,
    target: int | None = None,
    unpack_to: Path | None = None,
) -> Report:
    """Write `align.json`, `instruct.json`, `heldout.jsonl` and what goes with them into `out`.

    Args:
        images: a folder, an archive, a table or a hub id, see `qllava.datagen.sources.read_source`.
        annotations: annotation folder or file, when it is not in or beside `images`.
        out: the data folder; files of an earlier gen-data there are replaced, others left alone.
        teacher: `template`; the others are run by `model_run.ModelRun`.
        limit: at most this many training pictures, and as many held-out ones, chosen by hash; over all shards.
        seed: chooses wordings, captions and the pictures within `limit`; never what is held out.
        questions: short questions a picture, at most.
        kinds: some of `lessons.KINDS`.
        progress: told after each picture.
        image_position: `first`, or `random`: before or after the first question, by hash (the paper, section 4).
        shard: `i/n`: the pictures of the i-th of n shares, for `merge` to join.
        target: at most this many caption pairs, concepts balanced; over all shards.
        unpack_to: folder for the pictures of archives and data sets; beside `out` unless given.

    Captions of a source that knows no boxes become caption pairs and no questions: nothing bears them out.

    Raises:
        UsageError: a setting that cannot work, a folder that is not there, or pictures without annotations.
        DataError: annotations that cannot be read or hold nothing to teach.
    """
    chosen_kinds = check_settings(teacher, limit, questions, kinds)
    if teacher != "template":
        raise UsageError(f"--teacher {teacher} asks a model; use qllava.datagen.model_run.ModelRun")
    refuse_foreign(out, teacher, shard)
    intake = take_in(images, annotations, out, limit=limit, seed=seed, shard=shard, target=target, unpack_to=unpack_to)
    source, train, held_out = intake.source, intake.train, intake.held_out
    if not source.annotated:
        raise UsageError(
            f"{images} has pictures and neither captions nor boxes ({source.kind}), and the template teacher speaks "
            "from nothing else; add --annotations PATH, or a model that sees: --teacher openai --see"
        )
    pairs_alone = source.captions_only
    with locked(out), Folder(out) as folder:
        writer = Writer(folder, source, seed, image_position)
        responses = folder.list_file(RESPONSES)
        readers = Readers()
        for done, scene in enumerate((*train, *held_out), start=1):
            wanted: Sequence[Kind] = chosen_kinds if not scene.held_out else ("conversation",)
            usable = replace(scene, captions=writer.usable_captions(scene))
            facts = readers.facts(usable)
            lessons = [] if pairs_alone else teach(scene.id, facts, intake.priors, seed, questions, wanted)
            if not pairs_alone:
                (writer.write_held_out if scene.held_out else writer.write_lessons)(scene, lessons)
            if not scene.held_out:
                writer.write_caption(usable, intake.paired)
            _record(responses, usable, facts, lessons)
            if progress is not None:
                progress(done, len(train) + len(held_out))
        report = Report(
            out=out,
            source=source.kind,
            teacher=teacher,
            model=None,
            seed=seed,
            questions=questions,
            kinds=chosen_kinds,
            pictures=len(train),
            held_out=len(held_out),
            held_out_rule=source.held_out_rule,
            held_out_questions=writer.files["heldout.jsonl"].entries,
            missing=len(source.missing),
            absent_splits=source.absent_splits,
            captions=writer.files["align.json"].entries,
            by_kind={kind: writer.kinds[kind] for kind in chosen_kinds},
            by_type=dict(sorted(writer.types.items())),
            rejected=dict(sorted(writer.rejected.items())),
            files=folder.finish(),
            target=target,
            shard=shard,
            unpacked=intake.unpacked,
        )
        if shard is None and not report.captions and not sum(report.by_kind.values()):
            raise DataError(
                f"no question follows from the annotations of {images}; "
                f"add instances_*.json (boxes) to the captions, or another of --kinds {','.join(KINDS)}"
            )
        report = replace(report, files={**report.files, "README.md": folder.text("README.md", readme(report))})
        folder.text(CARD, card_json(report, image_root(source.root, out)))
        folder.commit()
    return report


class Readers:
    """Facts of scenes; one caption reader for each vocabulary, and there is one vocabulary a split."""

    def __init__(self) -> None:
        self._readers: dict[int, CaptionReader] = {}

    def facts(self, scene: Scene) -> Facts:
        """The facts of one scene."""
        vocabulary = id(scene.categories)
        if vocabulary not in self._readers:
            self._readers[vocabulary] = CaptionReader(scene.categories)
        return extract_facts(scene, self._readers[vocabulary])


def _record(responses: ListFile, scene: Scene, facts: Facts, lessons: Sequence[Lesson]) -> None:
    """What the template teacher knew and said about one scene."""
    responses.append(
        {
            "id": scene.id,
            "image": scene.image,
            "teacher": "template",
            "held_out": scene.held_out,
            **scene.record(),
            "facts": facts.record(),
            "answers": [
                {"kind": lesson.kind, "type": lesson.type, "question": lesson.question, "answer": lesson.answer}
                for lesson in lessons
            ],
        }
    )
