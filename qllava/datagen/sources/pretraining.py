"""LLaVA's pretraining release: a JSON list of one-turn conversations, whose answers are captions, and `images.zip`."""

from __future__ import annotations

import calendar
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from qllava.datagen.json_records import Record, json_records
from qllava.datagen.sources.assembly import Found, assemble, one_line
from qllava.datagen.sources.pictures import Pictures, is_picture, normal
from qllava.datagen.sources.scene import Note, Source
from qllava.datagen.sources.unpack import Unpacker, member_path
from qllava.errors import DataError

KIND = "LLaVA pretraining"
_EARLIEST = (1980, 1, 1, 0, 0, 0)


def is_chat(record: Record) -> bool:
    """Whether a first record is that of LLaVA's JSON."""
    return isinstance(record.get("conversations"), list)


def read_chat(
    images: Path,
    files: Mapping[str, Path],
    archives: Sequence[Path],
    *,
    unpack_to: Path,
    leave_out: Path | None = None,
) -> Source:
    """Read caption conversations, by the split they are of ("" for none).

    Where not all pictures are below `images`, those that the JSON lists are unpacked from the archives.

    Raises:
        DataError: a file that cannot be read, rows that are no captions, or not one picture is there.
    """
    captions: dict[tuple[str, str], list[str]] = {}
    notes: list[Note] = []
    for split, path in files.items():
        for where, record in json_records(path):
            image = record.get("image")
            if image is None:
                notes.append(Note("conversation without a picture", str(record.get("id", where)), where))
                continue
            if not isinstance(image, str) or not image.strip():
                raise DataError(f"{where} has image {image!r}, not the name of a picture")
            captions.setdefault((image, split), []).append(_answer(record, where))
    listed = dict.fromkeys(image for image, _ in captions)
    root, here = images, Pictures(images, leave_out)
    places = {image: here.find(image) for image in listed}
    if archives and None in places.values():
        root, find = unpack_to, _unpacked(archives, set(map(normal, listed)), unpack_to)
        places = {image: find(image) for image in listed}
    missing = [image for image, place in places.items() if place is None]
    if len(missing) == len(places):
        where = ", ".join(map(str, archives)) or f"below {images}"
        raise DataError(
            f"none of the {len(places):,} pictures in {', '.join(map(str, files.values()))} is in {where} "
            f"(looked for {next(iter(listed), 'none')}); put images.zip or its content beside the JSON"
        )
    return assemble(_found(captions, places), root=root, kind=KIND, missing=missing, notes=notes)


def _found(captions: Mapping[tuple[str, str], list[str]], places: Mapping[str, str | None]) -> Iterator[Found]:
    # Two spellings of a path may mean one picture.
    together: dict[tuple[str, str], list[str]] = {}
    for (image, split), texts in captions.items():
        place = places[image]
        if place is not None:
            together.setdefault((place, split), []).extend(texts)
    for (place, split), texts in together.items():
        yield Found(place, tuple(texts), split=split)


def _answer(record: Record, where: str) -> str:
    turns = record.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"{where} has no list `conversations` of turns; it is not LLaVA's JSON")
    answers = [turn.get("value") for turn in turns if turn.get("from") == "gpt"]
    if len(answers) != 1 or not isinstance(answers[0], str):
        raise DataError(
            f"{where} has {len(answers)} answers where a caption is one; this is instruction data: "
            "train on it with `qllava train --data`"
        )
    return one_line(answers[0])


def _unpacked(archives: Sequence[Path], wanted: set[str], unpack_to: Path) -> Callable[[str], str | None]:
    """Unpack the wanted pictures; returns where a listed one is below `unpack_to`."""
    unpacker = Unpacker(unpack_to)
    there: dict[str, Path] = {}
    for archive in archives:
        with _opened(archive) as opened:
            for member in opened.infolist():
                if member.is_dir() or not is_picture(member.filename):
                    continue
                path = member_path(archive, member.filename)
                if path is None or not _wanted(path, wanted):
                    continue
                if path in there:
                    raise DataError(f"{path} is in {there[path]} and in {archive}; keep one of the two")
                there[path] = archive
                unpacker.put(path, member.file_size, _time(member), _reader(opened, member, archive), archive)

    def find(listed: str) -> str | None:
        name = normal(listed)
        return next((path for path in (name, f"images/{name}") if path in there), None)

    return find


def _wanted(path: str, wanted: set[str]) -> bool:
    return path in wanted or path.removeprefix("images/") in wanted


def _reader(opened: zipfile.ZipFile, member: zipfile.ZipInfo, archive: Path) -> Callable[[], IO[bytes]]:
    if member.flag_bits & 1:
        raise DataError(f"{archive}: member {member.filename} is encrypted; unpack it yourself beside the JSON")
    return lambda: opened.open(member)


def _time(member: zipfile.ZipInfo) -> int:
    """Seconds; zip stores a local time without a zone, which serves as a mark here and nothing else."""
    return calendar.timegm(max(member.date_time, _EARLIEST))


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive} is not a whole zip file ({error}); download it again") from None
