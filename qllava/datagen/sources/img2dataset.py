"""What img2dataset writes: shards as folders (`00000/000000000.jpg`, `.txt`, `.json`) or as webdataset tars.

Beside a shard may stand `00000.parquet`, one row a URL: the only record of what could not be downloaded, and far
quicker to read than a file a picture.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from qllava.datagen.sources.assembly import Found, assemble, one_line
from qllava.datagen.sources.captions import read_text
from qllava.datagen.sources.pictures import is_picture, listing, suffix_of, walk
from qllava.datagen.sources.scene import Note, Source
from qllava.datagen.sources.unpack import Unpacker, member_path
from qllava.errors import DataError

KIND = "img2dataset"
SHARD = re.compile(r"\d{5,}")
_SUCCESS = "success"
_LARGEST_TEXT = 1 << 24  # bytes; a caption or its record is never longer


@dataclass(slots=True)
class _Sample:
    """One key of a shard: its picture's path, and the texts beside it."""

    image: str | None = None
    text: str | None = None
    record: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Growing:
    found: list[Found] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add(self, shard: str, samples: Mapping[str, _Sample]) -> None:
        """All samples of a shard, in the order of their keys."""
        for key, sample in sorted(samples.items()):
            record = sample.record or {}
            status = record.get("status", _SUCCESS)
            if status != _SUCCESS:
                self.notes.append(_failure(shard, key, status, record.get("error_message")))
                continue
            if sample.image is None:
                self.missing.append(f"{shard}/{key}")
                continue
            caption = record.get("caption") if sample.text is None else sample.text
            if caption is not None and not isinstance(caption, str):
                raise DataError(f"{shard}/{key}.json has caption {str(caption)[:60]!r}, not a text")
            self.found.append(Found(sample.image, () if caption is None else (one_line(caption),)))

    def source(self, root: Path, what: str) -> Source:
        if not self.found:
            listed = len(self.missing) + len(self.notes)
            raise DataError(f"{what} holds no downloaded picture ({listed:,} listed); download it again by img2dataset")
        return assemble(self.found, root=root, kind=KIND, missing=self.missing, notes=self.notes)


def read_folders(images: Path, *, leave_out: Path | None = None) -> Source:
    """Read shards that are folders.

    Raises:
        DataError: a text or record that cannot be read, or not one picture is there.
    """
    growing = _Growing()
    for prefix, names in walk(images, leave_out):
        shard = prefix.rstrip("/")
        if not SHARD.fullmatch(shard.rsplit("/", 1)[-1]):
            growing.notes.extend(
                Note("picture outside the shards", f"{prefix}{name}") for name in filter(is_picture, names)
            )
            continue
        here = {name.rsplit(".", 1)[0]: f"{prefix}{name}" for name in names if is_picture(name)}
        table = images / f"{shard}.parquet"
        samples = _from_table(table) if table.is_file() else _from_files(images / shard, names)
        for key, image in here.items():
            samples.setdefault(key, _Sample()).image = image
        growing.add(shard, samples)
    return growing.source(images, str(images))


def read_tars(archives: Sequence[Path], *, unpack_to: Path) -> Source:
    """Unpack webdataset tars into a folder for each and read them; what is unpacked already is left as it is.

    Raises:
        DataError: an archive that is damaged or would write elsewhere, or without pictures.
    """
    growing = _Growing()
    unpacker = Unpacker(unpack_to)
    shards: dict[str, Path] = {}
    for archive in archives:
        other = shards.setdefault(_shard(archive), archive)
        if other is not archive:
            raise DataError(f"{other} and {archive} would be unpacked into one folder; keep one of the two")
        samples = _from_tar(archive, unpacker, growing.notes)
        table = archive.with_suffix(".parquet")
        if table.is_file():
            for key, sample in _from_table(table).items():
                samples.setdefault(key, sample)
        growing.add(_shard(archive), samples)
    return growing.source(unpack_to, ", ".join(str(archive) for archive in archives[:3]))


def is_shard_folder(images: Path, folders: Sequence[str], files: Sequence[str]) -> bool:
    """Whether folders with a shard's name hold, or have beside them, what img2dataset writes with the pictures."""
    shards = sorted(name for name in folders if SHARD.fullmatch(name))
    if not shards:
        return False
    if any(f"{shard}{end}" in files for shard in shards for end in (".parquet", "_stats.json")):
        return True
    inside, _ = listing(images / shards[0])
    return any(f"{name.rsplit('.', 1)[0]}.json" in inside for name in inside if is_picture(name))


def _shard(archive: Path) -> str:
    return archive.name.split(".", 1)[0]


def _from_files(folder: Path, names: Sequence[str]) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    for name in names:
        key, suffix = name.rsplit(".", 1)[0], suffix_of(name)
        if suffix == ".txt":
            samples.setdefault(key, _Sample()).text = read_text(folder / name)
        elif suffix == ".json":
            samples.setdefault(key, _Sample()).record = _record(read_text(folder / name), f"{folder / name}")
    return samples


def _from_table(path: Path) -> dict[str, _Sample]:
    import pyarrow as pa  # noqa: PLC0415 - 0.1 s that only this needs
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        file = pq.ParquetFile(path)
        wanted = [name for name in ("key", "status", "caption", "error_message") if name in file.schema_arrow.names]
        rows = file.read(columns=wanted).to_pylist()
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} is not a parquet file ({first}); download it again or remove it") from None
    if "key" not in wanted:
        raise DataError(f"{path} has no column `key`; it is not img2dataset's, move it away")
    return {str(row["key"]): _Sample(record=row) for row in rows}


def _from_tar(archive: Path, unpacker: Unpacker, notes: list[Note]) -> dict[str, _Sample]:
    shard = _shard(archive)
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(archive, "r:*") as opened:
            for member in opened:
                path = member_path(archive, member.name) if not member.isdir() else None
                suffix = suffix_of(member.name)
                if path is None or not (is_picture(path) or suffix in {".txt", ".json"}):
                    continue
                if not member.isfile():
                    notes.append(Note("link or device in an archive", f"{archive.name}/{path}"))
                    continue
                key = path.rsplit(".", 1)[0]
                sample = samples.setdefault(key, _Sample())
                if is_picture(path):
                    sample.image = f"{shard}/{path}"
                    unpacker.put(sample.image, member.size, int(member.mtime), _reader(opened, member), archive)
                elif suffix == ".txt":
                    sample.text = _text(opened, member, archive)
                else:
                    sample.record = _record(_text(opened, member, archive), f"{archive}, member {member.name}")
            _end(opened)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise DataError(f"{archive} is not a whole tar file ({reason}); download or write it again") from None
    return samples


def _end(opened: tarfile.TarFile) -> None:
    """A tar ends with blocks of zeros; tarfile takes one that was cut between two members for whole."""
    file = opened.fileobj
    if file is not None:
        file.seek(opened.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("cut off between two members")


def _reader(opened: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def content() -> IO[bytes]:
        file = opened.extractfile(member)
        if file is None:
            raise tarfile.ReadError(f"member {member.name} has no content")
        return file

    return content


def _text(opened: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> str:
    if member.size > _LARGEST_TEXT:
        raise DataError(f"{archive}: member {member.name} of {member.size:,} bytes is no caption; leave it out")
    with _reader(opened, member)() as file:
        try:
            return file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{archive}: member {member.name} is not text in UTF-8; write it again") from None


def _record(text: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg}); download it again") from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object; download it again")
    return record


def _failure(shard: str, key: str, status: object, message: object) -> Note:
    # A few messages are those of a million rows.
    detail = "" if message is None else sys.intern(str(message))
    return Note(sys.intern(f"img2dataset: {str(status).replace('_', ' ')}"), f"{shard}/{key}", detail)
