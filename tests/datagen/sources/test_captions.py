"""Caption tables of many spellings, text files beside pictures, and pictures alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qllava.datagen.sources import Source, read_source
from qllava.errors import DataError, UsageError
from tests.datagen.sources.conftest import Touch


def captions(source: Source) -> dict[str, list[str]]:
    return {scene.image: list(scene.captions) for scene in source.scenes}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'image,caption\na.jpg,"one, two"\nb.jpg,three\na.jpg,  four   five \n'),
        ("captions.csv", "\ufeffid;FILE_NAME;Comment\n1;a.jpg;one, two\n2;b.jpg;three\n3;a.jpg;four five\n"),
        (
            "rows.tsv",
            "caption\timage_path\none, two\tsub/../a.jpg\n".replace("sub/../", "./")
            + "three\tb.jpg\nfour five\ta.jpg\n",
        ),
        ("rows.tsv", 'caption\timage\n"one, two"\ta.jpg\nthree\tb.jpg\r\nfour five\ta.jpg\n'),
        (
            "results.csv",
            "image_name| comment_number| comment\na.jpg| 0| one, two\nb.jpg| 0| three\na.jpg| 1| four five\n",
        ),
        ("tokens.txt", "a.jpg#0\tone, two\nb.jpg#0\tthree\na.jpg#1\tfour five\n"),
        (
            "metadata.jsonl",
            '{"file_name": "a.jpg", "text": ["one, two", "four five"]}\n{"file_name": "b.jpg", "text": "three"}\n',
        ),
        (
            "captions.json",
            '[{"image": "a.jpg", "caption": "one, two"}, {"image": "b.jpg", "caption": "three"}, '
            '{"image": "a.jpg", "caption": "four five"}]',
        ),
    ],
)
def test_tables_found_by_themselves(touch: Touch, tmp_path: Path, name: str, text: str) -> None:
    folder = touch("pictures", "a.jpg", "b.jpg", "unlisted.jpg")
    (folder / name).write_text(text, encoding="utf-8", newline="")
    wanted = {"a.jpg": ["one, two", "four five"], "b.jpg": ["three"]}
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert (captions(source), source.kind) == (wanted, "caption table")
    assert captions(read_source(folder / name, unpack_to=tmp_path / "u")) == wanted
    elsewhere = (folder / name).rename(tmp_path / name)
    assert captions(read_source(folder, elsewhere, unpack_to=tmp_path / "u")) == wanted
    assert read_source(folder, elsewhere, unpack_to=tmp_path / "u").root == folder


def test_missing_pictures_are_listed_once(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "images/a.jpg", "deep/er/b.jpg")
    rows = "image,caption\na.jpg,one\n/old/disk/images/a.jpg,two\nb.jpg,three\nc.jpg,four\nc.jpg,five\n"
    (folder / "captions.csv").write_text(rows)
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert captions(source) == {"images/a.jpg": ["one", "two"], "deep/er/b.jpg": ["three"]}
    assert source.missing == ("c.jpg",)


def test_a_same_named_picture_of_another_folder_is_not_taken(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "train/a.jpg", "val/b.jpg", "x/c.jpg", "y/c.jpg", "d.jpg")
    (folder / "captions.csv").write_text(
        "image,caption\nval/a.jpg,one\nval/b.jpg,two\ntrain/a.jpg,three\nc.jpg,?\nval/d.jpg,?\n"
    )
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert captions(source) == {"train/a.jpg": ["three"], "val/b.jpg": ["two"]}
    assert source.missing == ("c.jpg", "val/a.jpg", "val/d.jpg")
    assert [scene.image for scene in source.scenes if scene.held_out] == ["val/b.jpg"]
    assert source.held_out_rule == "the pictures of val"


def test_splits_of_files_and_of_a_column(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", *(f"{n}.jpg" for n in range(6)))
    (folder / "train_captions.csv").write_text("image,caption\n0.jpg,x\n1.jpg,x\n2.jpg,x\n5.jpg,x\n")
    (folder / "captions_valid.csv").write_text("image,caption\n3.jpg,x\n5.jpg,y\n")
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert [scene.image for scene in source.scenes if scene.held_out] == ["3.jpg", "5.jpg"]
    assert [(note.reason, note.name) for note in source.notes] == [("listed in two splits", "5.jpg")]
    assert captions(source)["5.jpg"] == ["y"]

    (folder / "captions_valid.csv").unlink()
    table = folder / "train_captions.csv"
    table.write_text("image,caption,split\n0.jpg,x,train\n1.jpg,x,test\n2.jpg,x,restval\n3.jpg,x,val\n")
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert [scene.image for scene in source.scenes if scene.held_out] == ["1.jpg", "3.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "image,caption\na.jpg,one, two\n", "line 2 has 3 columns where the table has 2; put captions"),
        ("c.csv", 'image,caption\na.jpg,"one\n', "line 2 cannot be cut into columns"),
        ("c.csv", 'image,caption\n"a\n.jpg",one\nb.jpg,1,2\n', "line 4 has 3 columns"),
        ("c.csv", "image,caption\n,one\n", "line 2 has image '', not the name"),
        ("c.csv", "image,caption\nhttps://x/a.jpg,one\n", "line 2 has image https://x/a.jpg; download the pictures"),
        ("c.csv", "image,caption\n", "has no rows"),
        ("c.csv", "image,caption\nz.jpg,one\ny.jpg,two\n", "none of the 2 pictures in .* .looked for z.jpg"),
        ("c.jsonl", '{"image": "a.jpg", "caption": 3}\n', "line 1 has caption '3'; a text or a list of texts"),
        ("c.jsonl", '{"image": 1, "caption": "x"}\n', "line 1 has image 1, not the name of a picture"),
    ],
)
def test_broken_rows_are_one_clear_line(touch: Touch, tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = touch("pictures", "a.jpg", "b.jpg")
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_source(folder, unpack_to=tmp_path / "u")
    assert "\n" not in str(caught.value)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", "image,caption\na.jpg,caf\xe9\n".encode("latin-1"), r"c\.csv is not text in UTF-8; save it as UTF-8"),
        ("c.tsv", "image\tcaption\na.jpg\tx\n".encode("utf-16"), r"c\.tsv is not text in UTF-8; save it as UTF-8"),
        ("c.jsonl", b"not json\n", r"c\.jsonl, line 1 is not JSON"),
    ],
)
def test_tables_that_cannot_be_read_are_not_passed_over(
    touch: Touch, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    folder = touch("pictures", "a.jpg")
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_source(folder, unpack_to=tmp_path / "u")
    (folder / name).rename(folder / "notes.md")
    assert read_source(folder, unpack_to=tmp_path / "u").kind == "pictures only"


def test_a_lone_quote_swallows_no_row(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "a.jpg", "b.jpg")
    (folder / "c.tsv").write_text('image\tcaption\na.jpg\t"Stop said the sign\nb.jpg\ttwo "quotes" in it\n')
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert captions(source) == {"a.jpg": ['"Stop said the sign'], "b.jpg": ['two "quotes" in it']}


def test_text_files_beside_pictures(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "a.jpg", "sub/a.PNG", "yolo.jpg", "bare.jpg")
    (folder / "a.txt").write_text("one\n\n  two  words \n")
    (folder / "sub" / "a.txt").write_text("three")
    (folder / "yolo.txt").write_text("0 0.5 0.5 0.1 0.2\n1 0.5 0.5 0.1 0.2\n")
    (folder / "notes.txt").write_text("made by me")
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert source.kind == "caption files beside pictures"
    assert captions(source) == {"a.jpg": ["one", "two words"], "sub/a.PNG": ["three"], "yolo.jpg": [], "bare.jpg": []}
    assert [(note.reason, note.name) for note in source.notes] == [
        ("text file of numbers, not captions", "yolo.txt"),
        ("text file without a picture", "notes.txt"),
    ]


def test_pictures_alone(touch: Touch, tmp_path: Path) -> None:
    names = [f"{n:03d}.jpg" for n in range(60)]
    folder = touch("pictures", *names, "deep/x.webp", "deep/._x.webp", ".hidden/y.jpg", "words.doc")
    source = read_source(folder, unpack_to=folder / "out")
    assert (source.kind, source.annotated, source.missing, source.notes) == ("pictures only", False, (), ())
    assert [scene.image for scene in source.scenes] == [*names, "deep/x.webp"]
    assert sum(scene.held_out for scene in source.scenes) == 20
    assert "1 % of the pictures" in source.held_out_rule
    assert {scene.id for scene in source.scenes} == {name[:3] for name in names} | {"deep/x"}
    touch("pictures/out", "unpacked.jpg")
    assert read_source(folder, unpack_to=folder / "out") == source


def test_a_link_that_leads_back_is_not_followed(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "a.jpg", "sub/b.jpg")
    (folder / "sub" / "loop").symlink_to(folder)
    touch("other", "c.jpg")
    (folder / "linked").symlink_to(tmp_path / "other")
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert [scene.image for scene in source.scenes] == ["a.jpg", "linked/c.jpg", "sub/b.jpg"]


def test_what_is_no_caption_table_is_noted(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "a.jpg", "b.jpg")
    (folder / "prices.csv").write_text("item,price\nx,3\n")
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert source.note_counts == {"file that is no caption table": 1}
    with pytest.raises(UsageError, match="has no columns for a picture and its caption in its first line"):
        read_source(folder, folder / "prices.csv", unpack_to=tmp_path / "u")
    (folder / "prices.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(DataError, match="is not COCO's format"):
        read_source(folder, folder / "prices.json", unpack_to=tmp_path / "u")
