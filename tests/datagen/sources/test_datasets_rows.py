"""Data sets of the `datasets` library, saved by it in the test: folders and parquet, pictures inside or named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PillowImage

from qllava.datagen.sources import read_source
from qllava.errors import DataError
from tests.datagen.sources.conftest import Touch


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow files of the parquet reader go to the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(color: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    PillowImage.new("RGB", (4, 4), color).save(file, kind)
    return file.getvalue()


def rows(*pairs: tuple[bytes | None, Any], caption: str = "caption") -> Dataset:
    pictures = [None if content is None else {"bytes": content, "path": None} for content, _ in pairs]
    columns = {"image": pictures, caption: [text for _, text in pairs]}
    kinds = Value("string") if all(isinstance(text, str) for _, text in pairs) else [Value("string")]
    return Dataset.from_dict(columns, features=Features({"image": Image(), caption: kinds}))


RED, BLUE, GREEN = encoded("red"), encoded("blue", "JPEG"), encoded("green", "WEBP")


def test_a_saved_folder_with_splits(tmp_path: Path) -> None:
    saved = DatasetDict(
        train=rows((RED, "  red\n"), (None, "none"), (b"nonsense", "?"), (GREEN, "green")),
        validation=rows((BLUE, "blue")),
    )
    saved.save_to_disk(tmp_path / "saved")
    out = tmp_path / "u"
    source = read_source(tmp_path / "saved", unpack_to=out)
    assert {scene.image: scene.captions for scene in source.scenes} == {
        "train/00000/000000000.png": ("red",),
        "train/00000/000000003.webp": ("green",),
        "validation/00000/000000000.jpg": ("blue",),
    }
    assert [scene.image for scene in source.scenes if scene.held_out] == ["validation/00000/000000000.jpg"]
    assert (source.kind, source.root) == ("datasets", out)
    assert [(note.reason, note.name) for note in source.notes] == [
        ("row without a picture", "train/1"),
        ("not a known kind of picture", "train/2"),
    ]
    assert (out / "train" / "00000" / "000000000.png").read_bytes() == RED

    before = (out / "train" / "00000" / "000000000.png").stat().st_ino
    assert read_source(tmp_path / "saved", unpack_to=out) == source
    assert (out / "train" / "00000" / "000000000.png").stat().st_ino == before
    (out / "validation" / "00000" / "000000000.jpg").unlink()
    assert read_source(tmp_path / "saved", unpack_to=out) == source
    assert (out / "validation" / "00000" / "000000000.jpg").read_bytes() == BLUE

    # Other rows at the same place: nothing of the first ones is taken for theirs.
    rows((BLUE, "x"), (RED, "y")).save_to_disk(tmp_path / "other")
    other = read_source(tmp_path / "other", unpack_to=out)
    assert [scene.image for scene in other.scenes] == ["train/00000/000000000.jpg", "train/00000/000000001.png"]
    assert (out / other.scenes[0].image).read_bytes() == BLUE
    assert not (out / "train" / "00000" / "000000000.png").exists()
    (out / "train" / "00000" / "mine.png").write_bytes(RED)
    assert read_source(tmp_path / "other", unpack_to=out) == other
    rows((GREEN, "x"), (RED, "y")).save_to_disk(tmp_path / "third")
    third = read_source(tmp_path / "third", unpack_to=out)
    assert (out / third.scenes[0].image).read_bytes() == GREEN


def test_lists_of_captions_and_a_split_column(tmp_path: Path) -> None:
    data = rows((RED, ["one", "two"]), (BLUE, ["three"]), (GREEN, []), caption="sentences")
    data.add_column("split", ["train", "val", "train"]).save_to_disk(tmp_path / "saved")
    source = read_source(tmp_path / "saved", unpack_to=tmp_path / "u")
    assert [scene.captions for scene in source.scenes] == [("one", "two"), ("three",), ()]
    assert [scene.held_out for scene in source.scenes] == [False, True, False]


def test_parquet_files_by_split(tmp_path: Path) -> None:
    folder = tmp_path / "clone" / "data"
    folder.mkdir(parents=True)
    rows((RED, "red"), (GREEN, "green")).to_parquet(folder / "train-00000-of-00001.parquet")
    rows((BLUE, "blue")).to_parquet(folder / "test-00000-of-00001.parquet")
    source = read_source(tmp_path / "clone", unpack_to=tmp_path / "u")
    assert {scene.image: (scene.captions, scene.held_out) for scene in source.scenes} == {
        "test/00000/000000000.jpg": (("blue",), True),
        "train/00000/000000000.png": (("red",), False),
        "train/00000/000000001.webp": (("green",), False),
    }
    one = read_source(folder / "test-00000-of-00001.parquet", unpack_to=tmp_path / "v")
    assert [scene.captions for scene in one.scenes] == [("blue",)]


def test_parquet_that_names_its_pictures(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "a.jpg", "b.jpg")
    table = {"file_name": ["a.jpg", "b.jpg", "a.jpg", "c.jpg"], "text": ["one", "two", "three", "four"]}
    Dataset.from_dict(table).to_parquet(folder / "captions.parquet")
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert {scene.image: scene.captions for scene in source.scenes} == {"a.jpg": ("one", "three"), "b.jpg": ("two",)}
    assert (source.missing, source.root) == (("c.jpg",), folder)
    assert not (tmp_path / "u").exists()


def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    Dataset.from_dict({"a": [1], "b": ["x"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="no columns for a picture and its caption among a, b; rename them"):
        read_source(tmp_path / "saved", unpack_to=tmp_path / "u")
    rows((None, "x")).save_to_disk(tmp_path / "empty")
    with pytest.raises(DataError, match=r"has no row with a picture .1 without"):
        read_source(tmp_path / "empty", unpack_to=tmp_path / "u")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match=r"broken cannot be opened by `datasets`") as caught:
        read_source(tmp_path / "broken", unpack_to=tmp_path / "u")
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"bad\.parquet cannot be opened by `datasets`"):
        read_source(tmp_path / "bad.parquet", unpack_to=tmp_path / "u")


def test_a_hub_id_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="data set nobody/nothing cannot be opened by") as caught:
        read_source("nobody/nothing:train", unpack_to=tmp_path / "u")
    assert str(caught.value).endswith("a folder of that name is not here either")
    assert "\n" not in str(caught.value)
