"""LLaVA's pretraining release: chat.json with images.zip, or with the pictures already unpacked."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.sources import read_source
from qllava.errors import DataError


def row(image: str | None, answer: str = "a caption", *more: dict[str, str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": "Say it.\n<image>"}, {"from": "gpt", "value": answer}, *more]
    return {"id": "x", "conversations": turns} | ({} if image is None else {"image": image})


def release(folder: Path, rows: list[dict[str, Any]], members: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "chat.json").write_text(json.dumps(rows))
    (folder / "metadata.json").write_text(json.dumps([{"image": "00000/0.jpg", "caption": "another"}]))
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2023, 4, 1, 12, 0, 0)), content)
    return folder


MORE = {"from": "gpt", "value": "y"}
ROWS = [row("00000/0.jpg", "olive  oil\n"), row("00000/1.jpg"), row("00001/2.jpg"), row("00000/0.jpg", "again")]
MEMBERS = {"00000/0.jpg": b"zero", "00000/1.jpg": b"one" * 99, "00001/3.jpg": b"unlisted", "__MACOSX/._0.jpg": b"x"}


def test_the_release_is_read_and_its_listed_pictures_unpacked_once(tmp_path: Path) -> None:
    folder, out = release(tmp_path / "llava", [*ROWS, row(None)], MEMBERS), tmp_path / "u"
    source = read_source(folder, unpack_to=out)
    assert {scene.image: scene.captions for scene in source.scenes} == {
        "00000/0.jpg": ("olive oil", "again"),
        "00000/1.jpg": ("a caption",),
    }
    assert (source.kind, source.root, source.missing) == ("LLaVA pretraining", out, ("00001/2.jpg",))
    assert source.note_counts == {"conversation without a picture": 1}
    assert sorted(path.name for path in out.rglob("*.*")) == ["0.jpg", "1.jpg"]
    assert (out / "00000" / "1.jpg").read_bytes() == b"one" * 99
    before = (out / "00000" / "0.jpg").stat().st_ino
    assert read_source(folder / "chat.json", unpack_to=out) == source
    assert (out / "00000" / "0.jpg").stat().st_ino == before
    (out / "00000" / "0.jpg").write_bytes(b"half")
    assert read_source(folder, folder / "chat.json", unpack_to=out) == source
    assert (out / "00000" / "0.jpg").read_bytes() == b"zero"


def test_pictures_that_are_unpacked_already(tmp_path: Path) -> None:
    folder = release(tmp_path / "llava", ROWS, {})
    (folder / "images.zip").unlink()
    for name in ("00000/0.jpg", "00000/1.jpg"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(b"jpeg")
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert [scene.image for scene in source.scenes] == ["images/00000/0.jpg", "images/00000/1.jpg"]
    assert (source.root, source.missing) == (folder, ("00001/2.jpg",))
    # With all of them there the archive is not needed, though it stands beside them; else it is.
    release(folder, ROWS[:2], MEMBERS)
    assert read_source(folder, unpack_to=tmp_path / "u").root == folder
    assert not (tmp_path / "u").exists()
    (folder / "images" / "00000" / "1.jpg").unlink()
    assert read_source(folder, unpack_to=tmp_path / "u").root == tmp_path / "u"


@pytest.mark.parametrize(
    ("rows", "members", "message"),
    [
        (
            [row("a.jpg"), row("b.jpg", "x", MORE)],
            {"a.jpg": b"a"},
            "entry 2 has 2 answers where",
        ),
        ([row("a.jpg") | {"conversations": []}], {"a.jpg": b"a"}, "has 0 answers .* this is instruction data"),
        ([row("a.jpg"), row("a.jpg") | {"conversations": "x"}], {"a.jpg": b"a"}, "has no list `conversations`"),
        ([row("a.jpg") | {"image": 3}], {"a.jpg": b"a"}, "has image 3, not the name of a picture"),
        ([row("z.jpg")], {"a.jpg": b"a"}, r"none of the 1 pictures in .*chat\.json is in .*images\.zip"),
        ([row("../a.jpg")], {"../a.jpg": b"a"}, "would be written outside the folder"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(
    tmp_path: Path, rows: list[dict[str, Any]], members: dict[str, bytes], message: str
) -> None:
    folder = release(tmp_path / "llava", rows, members)
    with pytest.raises(DataError, match=message) as caught:
        read_source(folder, unpack_to=tmp_path / "deep" / "u")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "deep" / "a.jpg").exists()


def test_damaged_archives(tmp_path: Path) -> None:
    folder = release(tmp_path / "llava", ROWS, MEMBERS)
    archive = folder / "images.zip"
    whole = archive.read_bytes()
    at = 30 + len("00000/0.jpg")  # the first member's content
    for broken in (whole[: len(whole) // 2], whole[:at] + b"\0\0\0" + whole[at + 3 :], b""):
        archive.write_bytes(broken)
        with pytest.raises(DataError, match=r"images\.zip is not a whole zip file"):
            read_source(folder, unpack_to=tmp_path / "u")
    archive.write_bytes(whole)
    with zipfile.ZipFile(folder / "more.zip", "w") as more:
        more.writestr("00000/0.jpg", b"another")
    with pytest.raises(DataError, match=r"00000/0\.jpg is in .*images\.zip and in .*more\.zip; keep one"):
        read_source(folder, unpack_to=tmp_path / "u")
