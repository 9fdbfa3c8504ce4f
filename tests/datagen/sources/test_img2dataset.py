"""img2dataset's folders and tars: what was not downloaded is counted, archives are unpacked once and nowhere else."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qllava.datagen.sources import Source, read_source
from qllava.errors import DataError
from tests.datagen.sources.conftest import WriteTar


def record(key: str, caption: str, status: str = "success", message: str | None = None) -> bytes:
    return json.dumps({"key": key, "caption": caption, "status": status, "error_message": message}).encode()


def shard(first: int) -> dict[str, bytes]:
    """Three pictures (the third with a text and no record), a picture that is not there, and a failed download."""
    keys = [f"{n:09d}" for n in range(first, first + 5)]
    members: dict[str, bytes] = {}
    for key in keys[:2]:
        members |= {f"{key}.jpg": key.encode(), f"{key}.txt": f"  text of {key}\n".encode()}
        members[f"{key}.json"] = record(key, f"text of {key}")
    members |= {f"{keys[2]}.jpg": b"third", f"{keys[2]}.txt": b"third"}
    members[f"{keys[3]}.json"] = record(keys[3], "fourth")
    members[f"{keys[4]}.json"] = record(keys[4], "fifth", "failed_to_download", "HTTP Error 404")
    return members


def write_table(path: Path, rows: list[tuple[str, str, str, str | None]]) -> None:
    columns = zip(("key", "caption", "status", "error_message"), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), path)


def told(source: Source) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...], list[tuple[str, str, str]]]:
    captions = {scene.image: scene.captions for scene in source.scenes}
    return captions, source.missing, [(note.reason, note.name, note.detail) for note in source.notes]


WANTED = (
    {
        "00000/000000000.jpg": ("text of 000000000",),
        "00000/000000001.jpg": ("text of 000000001",),
        "00000/000000002.jpg": ("third",),
        "00001/000000010.jpg": ("text of 000000010",),
        "00001/000000011.jpg": ("text of 000000011",),
        "00001/000000012.jpg": ("third",),
    },
    ("00000/000000003", "00001/000000013"),
    [
        ("img2dataset: failed to download", "00000/000000004", "HTTP Error 404"),
        ("img2dataset: failed to download", "00001/000000014", "HTTP Error 404"),
    ],
)


def test_folders(tmp_path: Path) -> None:
    for number, first in ((0, 0), (1, 10)):
        for name, content in shard(first).items():
            path = tmp_path / "cc3m" / f"{number:05d}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    source = read_source(tmp_path / "cc3m", unpack_to=tmp_path / "u")
    assert told(source) == WANTED
    assert (source.kind, source.root) == ("img2dataset", tmp_path / "cc3m")
    assert not (tmp_path / "u").exists()


def test_folders_with_tables_read_no_texts(tmp_path: Path) -> None:
    folder = tmp_path / "cc3m"
    (folder / "00000").mkdir(parents=True)
    for key in ("000000000", "000000001"):
        (folder / "00000" / f"{key}.jpg").write_bytes(b"jpeg")
        (folder / "00000" / f"{key}.json").write_text("never read")
    (folder / "stray.jpg").write_bytes(b"jpeg")
    rows = [("000000000", "zero", "success", None), ("000000002", "two", "failed_to_resize", "bad"), ("000000003",) * 3]
    write_table(folder / "00000.parquet", [*rows[:2], ("000000003", "three", "success", None)])
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert told(source) == (
        {"00000/000000000.jpg": ("zero",), "00000/000000001.jpg": ()},
        ("00000/000000003",),
        [
            ("picture outside the shards", "stray.jpg", ""),
            ("img2dataset: failed to resize", "00000/000000002", "bad"),
        ],
    )


def test_tars_are_unpacked_once(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar(tmp_path / "cc3m" / "00000.tar", shard(0))
    write_tar(tmp_path / "cc3m" / "00001.tar", shard(10))
    (tmp_path / "cc3m" / "00000_stats.json").write_text("{}")
    out = tmp_path / "u"
    source = read_source(tmp_path / "cc3m", unpack_to=out)
    assert told(source) == WANTED
    assert source.root == out
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == sorted(WANTED[0])
    first = out / "00000" / "000000000.jpg"
    assert first.read_bytes() == b"000000000"

    # A second time only what is not there, or is not what it was, is written again.
    before = {name: (out / name).stat().st_ino for name in files}
    first.unlink()
    changed = out / "00000" / "000000001.jpg"
    changed.write_bytes(b"CHANGED!!")
    cut = out / "00001" / "000000010.jpg"
    cut.write_bytes(b"0000")
    os.utime(cut, (1_700_000_000, 1_700_000_000))
    assert told(read_source(tmp_path / "cc3m", unpack_to=out)) == WANTED
    after = {name: (out / name).stat().st_ino for name in files}
    assert {name for name in files if before[name] != after[name]} <= {files[0], files[1], "00001/000000010.jpg"}
    assert (first.read_bytes(), changed.read_bytes()) == (b"000000000", b"000000001")
    assert cut.read_bytes() == b"000000010"
    assert told(read_source(tmp_path / "cc3m" / "00000.tar", unpack_to=out))[1] == ("00000/000000003",)


def test_a_table_beside_a_tar_lists_what_failed(tmp_path: Path, write_tar: WriteTar) -> None:
    folder = tmp_path / "cc3m"
    write_tar(folder / "00000.tar", {"0.jpg": b"0", "0.json": record("0", "zero")})
    write_table(folder / "00000.parquet", [("0", "zero", "success", None), ("1", "one", "failed_to_download", "gone")])
    assert told(read_source(folder, unpack_to=tmp_path / "u")) == (
        {"00000/0.jpg": ("zero",)},
        (),
        [("img2dataset: failed to download", "00000/1", "gone")],
    )


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "..\\out.jpg", "C:/out.jpg"])
def test_no_member_leaves_the_folder(tmp_path: Path, write_tar: WriteTar, name: str) -> None:
    write_tar(tmp_path / "cc3m" / "00000.tar", {"0.jpg": b"0", name: b"evil"})
    with pytest.raises(DataError, match="would be written outside the folder; do not use this archive"):
        read_source(tmp_path / "cc3m", unpack_to=tmp_path / "deep" / "u")
    assert not list(tmp_path.rglob("out.jpg"))


def test_links_are_noted_and_not_followed(tmp_path: Path) -> None:
    archive = tmp_path / "cc3m" / "00000.tar"
    archive.parent.mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "1.jpg").symlink_to(tmp_path / "secret")
    (tmp_path / "0.jpg").write_bytes(b"0")
    with tarfile.open(archive, "w") as file:
        file.add(tmp_path / "0.jpg", "0.jpg")
        file.add(tmp_path / "1.jpg", "1.jpg")
        file.add(tmp_path / "0.jpg", "__MACOSX/._0.jpg")
    source = read_source(tmp_path / "cc3m", unpack_to=tmp_path / "u")
    assert told(source) == ({"00000/0.jpg": ()}, (), [("link or device in an archive", "00000.tar/1.jpg", "")])

    # A link that stands in the folder already leads nowhere either.
    (tmp_path / "v").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "v" / "00000").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link out of"):
        read_source(tmp_path / "cc3m", unpack_to=tmp_path / "v")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_damaged_archives(tmp_path: Path, write_tar: WriteTar) -> None:
    archive = write_tar(tmp_path / "cc3m" / "00000.tar", shard(0) | {"9.jpg": os.urandom(5000)})
    whole = archive.read_bytes()
    with tarfile.open(archive) as opened:
        ends = [member.offset for member in opened.getmembers()[1:]]
    for cut in (300, ends[0] + 100, ends[-1] + 512 + 2000, ends[2], len(whole) - 10240 - 512):
        archive.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"00000\.tar is not a whole tar file") as caught:
            read_source(tmp_path / "cc3m", unpack_to=tmp_path / "u")
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "u").rglob("*.tmp"))
    write_tar(archive, {"0.jpg": b"0", "0.json": b"{"})
    with pytest.raises(DataError, match=r"member 0\.json is not JSON"):
        read_source(tmp_path / "cc3m", unpack_to=tmp_path / "u")
    write_tar(archive, {"0.jpg": b"0", "0.txt": b"\xff\xfe\xff"})
    with pytest.raises(DataError, match=r"member 0\.txt is not text in UTF-8"):
        read_source(tmp_path / "cc3m", unpack_to=tmp_path / "u")
    write_tar(archive, {"0.json": record("0", "zero", "failed_to_download")})
    with pytest.raises(DataError, match=r"holds no downloaded picture .1 listed"):
        read_source(tmp_path / "cc3m", unpack_to=tmp_path / "u")
    (tmp_path / "cc3m" / "00000.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"00000\.parquet is not a parquet file"):
        read_source(tmp_path / "cc3m", unpack_to=tmp_path / "u")
