"""What kind of source was given, and its reader."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qllava.datagen.json_records import LINE_SUFFIXES, first_json_record, json_records
from qllava.datagen.sources.assembly import split_word
from qllava.datagen.sources.captions import has_sidecars, read_bare, read_sidecars, read_tables
from qllava.datagen.sources.coco import LAYOUT, read_coco, split_files
from qllava.datagen.sources.datasets_rows import read_hub, read_parquet, read_saved
from qllava.datagen.sources.img2dataset import is_shard_folder, read_folders, read_tars
from qllava.datagen.sources.llava_context import is_context, read_context
from qllava.datagen.sources.pictures import is_picture, listing
from qllava.datagen.sources.pretraining import is_chat, read_chat
from qllava.datagen.sources.scene import Note, Source
from qllava.datagen.sources.tables import TEXT_SUFFIXES, is_table, table_columns
from qllava.errors import UsageError

LOOKED_FOR = (
    "COCO annotations (annotations/instances_*.json), LLaVA context JSON lines, a caption table (CSV, TSV, JSON with "
    "the columns image and caption), captions in .txt files beside pictures, img2dataset shards, LLaVA's chat.json "
    "with images.zip, a saved or parquet data set, pictures alone"
)
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")
_TAR_ENDS = (".tar", ".tar.gz", ".tgz")
_PEEK = 1 << 16


@dataclass(frozen=True, slots=True)
class _Kind:
    """One thing that was found: in words, and its reader."""

    what: str
    read: Callable[[], Source]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where pictures are and where others may be unpacked to."""

    images: Path
    unpack_to: Path


def read_source(images: Path | str, annotations: Path | None = None, *, unpack_to: Path) -> Source:
    """Find out what was given and read it.

    Args:
        images: a folder (COCO, pictures with tables or text files, img2dataset shards, LLaVA's release, a saved data
            set), a table or archive itself, or the hub id of a data set (`owner/name`, `owner/name:split`).
        annotations: the file or COCO folder that says what is in the pictures, where it is not found by itself.
        unpack_to: folder for the pictures of archives and data sets; theirs is then `Source.root`. What an earlier
            run unpacked is kept. Never read as a part of `images`.

    Raises:
        UsageError: nothing there, nothing known, or several things; names --annotations.
        DataError: contents that cannot be read; names the file and the place in it.
    """
    path = Path(images)
    place = _Place(path, unpack_to)
    if annotations is not None and not annotations.exists():
        raise UsageError(f"--annotations {annotations}: no such file or folder; {LAYOUT}")
    if path.is_file():
        inside = _file(place, path)
        if inside is not None and annotations is None:
            return inside.read()
        if annotations is None and not is_table(path):
            raise UsageError(f"--images {images} is a file of no known kind; name a folder with {LOOKED_FOR}")
        place, annotations = _Place(path.parent, unpack_to), annotations or path
    elif not path.is_dir():
        if annotations is None and _is_hub_id(str(images)):
            return read_hub(str(images), unpack_to=unpack_to)
        raise UsageError(f"--images {images}: no such folder; {LAYOUT}")
    if annotations is not None:
        return _named(place, annotations).read()
    return _found(place)


def _is_hub_id(images: str) -> bool:
    """`owner/name`; but a path whose first folder is here was meant as a path."""
    return _HUB.fullmatch(images) is not None and not Path(images.split("/", maxsplit=1)[0]).exists()


def _named(place: _Place, annotations: Path) -> _Kind:
    """What --annotations names."""
    if annotations.is_file():
        kind = _file(place, annotations)
        if kind is not None:
            return kind
        if annotations.suffix.lower() in TEXT_SUFFIXES | LINE_SUFFIXES:
            raise UsageError(
                f"--annotations {annotations} has no columns for a picture and its caption in its first line; "
                "name them image and caption"
            )
    return _Kind("COCO annotations", lambda: read_coco(place.images, annotations, leave_out=place.unpack_to))


def _found(place: _Place) -> Source:
    """The one thing that is in the folder, or COCO's annotations beside it, or its pictures."""
    images, unpack_to = place.images, place.unpack_to
    files, folders = listing(images)
    kinds, ignored = _inside(place, sorted(files), sorted(folders))
    beside = split_files(images.resolve().parent / "annotations")
    if not kinds and beside:
        return read_coco(images, leave_out=unpack_to)
    if len(kinds) > 1:
        raise UsageError(
            f"--images {images} holds {' and '.join(kind.what for kind in kinds)}; say which by --annotations PATH"
        )
    if kinds:
        source = kinds[0].read()
    elif has_sidecars(images, leave_out=unpack_to):
        source = read_sidecars(images, leave_out=unpack_to)
    else:
        source = read_bare(images, leave_out=unpack_to)
    if not source.scenes:
        raise UsageError(f"--images {images}: nothing known in it; looked for {LOOKED_FOR}; or give --annotations PATH")
    return replace(source, notes=(*source.notes, *(Note("file that is no caption table", name) for name in ignored)))


def _inside(place: _Place, files: Sequence[str], folders: Sequence[str]) -> tuple[list[_Kind], list[str]]:
    """(what is directly in the folder, names of files that might have been captions and are not)."""
    images, unpack_to = place.images, place.unpack_to
    kinds: list[_Kind] = []
    if split_files(images / "annotations"):
        kinds.append(_Kind("COCO annotations", lambda: read_coco(images, leave_out=unpack_to)))
    if "dataset_dict.json" in files or {"state.json", "dataset_info.json"} <= set(files):
        return [*kinds, _Kind("a saved data set", lambda: read_saved(images, unpack_to=unpack_to))], []
    tars = [images / name for name in files if name.endswith(_TAR_ENDS)]
    shards = is_shard_folder(images, folders, files)
    if tars:
        kinds.append(_Kind(f"tars ({tars[0].name})", lambda: read_tars(tars, unpack_to=unpack_to)))
    if shards:
        kinds.append(_Kind("img2dataset folders", lambda: read_folders(images, leave_out=unpack_to)))
    if tars or shards:
        # What stands beside shards is about them.
        return kinds, []
    parquet = [images / name for name in files if name.endswith(".parquet")]
    parquet = parquet or sorted((images / "data").glob("*.parquet"))
    if parquet:
        kinds.append(
            _Kind(f"parquet files ({parquet[0].name})", lambda: read_parquet(parquet, images, unpack_to=unpack_to))
        )
    tables, ignored = _tables(images, files)
    kinds += [_file_kind(place, what, paths) for what, paths in tables.items()]
    return kinds, ignored


def _tables(images: Path, files: Sequence[str]) -> tuple[dict[str, list[Path]], list[str]]:
    """({kind: files}, names that are none of these kinds)."""
    stems = {name.rsplit(".", 1)[0] for name in files if is_picture(name)}
    found: dict[str, list[Path]] = {}
    ignored: list[str] = []
    for name in files:
        path = images / name
        is_text = name.endswith(".txt")
        if not is_table(path) or (is_text and name[:-4] in stems):
            continue
        what = _what(path)
        if what is not None:
            found.setdefault(what, []).append(path)
        elif not is_text and not name.endswith(".json"):
            ignored.append(name)
    if "chat" in found:
        # The release has a table of the same pictures beside its conversations: metadata.json.
        found["table"] = [path for path in found.get("table", []) if path.suffix != ".json"]
    return {what: paths for what, paths in found.items() if paths}, ignored


def _what(path: Path) -> str | None:
    """The kind of a table file by its beginning: coco, context, chat, table, or None.

    Raises:
        DataError: a table or JSON lines that cannot be read; other JSON may be anything.
    """
    suffix = path.suffix.lower()
    if suffix == ".json" or suffix in LINE_SUFFIXES:
        is_lines = suffix in LINE_SUFFIXES
        record = next((record for _, record in json_records(path)), None) if is_lines else first_json_record(path)
        if record is None:
            return "coco" if not is_lines and _is_coco(path) else None
        if is_chat(record):
            return "chat"
        if is_context(record):
            return "context"
    return "table" if table_columns(path) is not None else None


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_PEEK).lstrip()
    return start.startswith(b"{") and (b'"images"' in start or b'"annotations"' in start)


def _file(place: _Place, path: Path) -> _Kind | None:
    """What a single file is, or None."""
    if path.name.endswith(_TAR_ENDS):
        return _Kind("tar", lambda: read_tars([path], unpack_to=place.unpack_to))
    if path.suffix == ".parquet":
        folder = place.images if place.images.is_dir() else path.parent
        return _Kind("parquet", lambda: read_parquet([path], folder, unpack_to=place.unpack_to))
    if not is_table(path):
        return None
    what = _what(path)
    folder = place.images if place.images.is_dir() else path.parent
    return None if what is None else _file_kind(_Place(folder, place.unpack_to), what, [path])


def _file_kind(place: _Place, what: str, paths: Sequence[Path]) -> _Kind:
    images, unpack_to = place.images, place.unpack_to
    names = " and ".join(path.name for path in paths)
    if what == "coco":
        return _Kind(f"COCO annotations ({names})", lambda: _only(paths, images, unpack_to))
    if what == "context":
        return _Kind(
            f"LLaVA context ({names})", lambda: read_context(images, _by_split(paths, images), leave_out=unpack_to)
        )
    if what == "chat":
        return _Kind(f"LLaVA conversations ({names})", lambda: _chat(paths, images, unpack_to))
    return _Kind(
        f"a caption table ({names})", lambda: read_tables(images, _by_split(paths, images), leave_out=unpack_to)
    )


def _only(paths: Sequence[Path], images: Path, unpack_to: Path) -> Source:
    if len(paths) > 1:
        raise _several(paths, images)
    return read_coco(images, paths[0], leave_out=unpack_to)


def _chat(paths: Sequence[Path], images: Path, unpack_to: Path) -> Source:
    archives = sorted(images.glob("*.zip")) or sorted(paths[0].parent.glob("*.zip"))
    return read_chat(images, _by_split(paths, images), archives, unpack_to=unpack_to, leave_out=unpack_to)


def _by_split(paths: Sequence[Path], images: Path) -> Mapping[str, Path]:
    """The files by the split that their names speak of; a single one is of none.

    Raises:
        UsageError: several files whose names do not tell their splits apart.
    """
    if len(paths) == 1:
        return {"": paths[0]}
    named = {split_word(path.stem): path for path in paths}
    if "" in named or len(named) < len(paths):
        raise _several(paths, images)
    return named


def _several(paths: Sequence[Path], images: Path) -> UsageError:
    names = ", ".join(path.name for path in paths)
    return UsageError(f"--images {images} holds several tables ({names}); say which by --annotations PATH")
