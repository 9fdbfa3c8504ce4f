"""From every kind of source to a data folder: where pictures are, what is listed, what a caption alone is good for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.intake import unpacking_place
from qllava.datagen.lessons import KINDS
from qllava.datagen.merge import merge
from qllava.datagen.pipeline import generate
from qllava.errors import DataError, UsageError
from qllava.report.data_folder import DataFolder
from tests.datagen.sources.test_pretraining import ROWS, release, row

Split = Callable[..., None]


def rows(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    loaded: list[dict[str, Any]] = (
        json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    )
    return loaded


def table(folder: Path, captions: list[str]) -> Path:
    """Pictures with one caption each, in a CSV beside them."""
    folder.mkdir()
    lines = ["image,caption"]
    for number, caption in enumerate(captions):
        (folder / f"{number:03d}.jpg").write_bytes(b"jpeg")
        lines.append(f"{number:03d}.jpg,{caption}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_release_becomes_caption_pairs_with_pictures_beside_the_data(tmp_path: Path) -> None:
    pictures = {f"00000/{n}.jpg": f"picture {n}".encode() for n in range(30)}
    images = release(tmp_path / "llava", [*[row(name) for name in pictures], row("gone.jpg"), row(None)], pictures)
    report = generate(images, None, tmp_path / "data")
    place = unpacking_place(images, tmp_path / "data")
    assert (report.source, report.unpacked) == ("LLaVA pretraining", place)
    assert place.parent == tmp_path
    assert place.name.startswith("images-of-llava-")
    card = json.loads((tmp_path / "data" / "card.json").read_text())
    assert card["image_root"] == f"../{place.name}"
    assert card["source"] == "LLaVA pretraining"
    pairs = rows(tmp_path / "data" / "align.json")
    assert len(pairs) == report.captions == report.pictures == 15  # half of so few are held out
    for pair in pairs:
        assert (tmp_path / "data" / card["image_root"] / pair["image"]).read_bytes() == pictures[pair["image"]]
    # No box bears a caption out: nothing is asked, and nothing is listed as a failure for it.
    assert rows(tmp_path / "data" / "instruct.json") == []
    assert rows(tmp_path / "data" / "heldout.jsonl") == []
    left_out = rows(tmp_path / "data" / "rejected.jsonl")
    assert left_out == [
        {"reason": "picture not on disk", "image": "gone.jpg"},
        {"reason": "conversation without a picture", "image": "x", "detail": left_out[1]["detail"]},
    ]
    assert left_out[1]["detail"].endswith("chat.json, entry 32")
    assert card["counts"]["rejected"] == {"conversation without a picture": 1}
    assert "from LLaVA pretraining" in (tmp_path / "data" / "README.md").read_text()


def test_all_shards_share_the_pictures_and_no_other_source_does(tmp_path: Path) -> None:
    pictures = {f"00000/{n}.jpg": f"picture {n}".encode() for n in range(40)}
    (tmp_path / "a").mkdir()
    images = release(tmp_path / "a" / "llava", [row(name) for name in pictures], pictures)
    for index in (1, 2):
        generate(images, None, tmp_path / f"data-{index}", shard=f"{index}/2")
    generate(images, None, tmp_path / "whole")
    merged = merge(tmp_path / "data", [tmp_path / "data-1", tmp_path / "data-2"])
    for name in ("align.json", "instruct.json", "heldout.jsonl", "responses.jsonl", "README.md", "card.json"):
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert merged.images == unpacking_place(images, tmp_path / "data").resolve()
    assert len(list(tmp_path.glob("images-of-*"))) == 1
    (tmp_path / "b").mkdir()
    other = release(tmp_path / "b" / "llava", ROWS, {"00000/0.jpg": b"other", "00000/1.jpg": b"one"})
    generate(other, None, tmp_path / "data-b", unpack_to=tmp_path / "mine")
    assert (tmp_path / "mine" / "00000" / "0.jpg").read_bytes() == b"other"
    generate(other, None, tmp_path / "data-c")
    assert len(list(tmp_path.glob("images-of-*"))) == 2
    assert (merged.images / "00000" / "0.jpg").read_bytes() == b"picture 0"
    assert unpacking_place(Path("owner/name:train"), Path("data")).name.startswith("images-of-owner-name-train-")


def test_a_caption_table_gives_pairs_alone(tmp_path: Path) -> None:
    images = table(tmp_path / "mine", ["a dog on a mat", "two dogs"] * 20)
    report = generate(images, None, tmp_path / "data", kinds=KINDS)
    assert (report.source, report.unpacked, report.captions) == ("caption table", None, 20)
    assert sum(report.by_kind.values()) == 0
    assert report.rejected == {}
    assert rows(tmp_path / "data" / "responses.jsonl")[0]["captions"] == ["a dog on a mat"]
    with DataFolder(tmp_path / "data") as folder:  # the gallery shows the pairs, there being nothing else
        pictures = [folder.picture(image) for image in folder.images]
    assert len(pictures) == 20
    assert {picture.samples[0].kind for picture in pictures} == {"caption"}
    assert all(picture.samples[0].turns[0][1] == picture.captions[0] for picture in pictures)


def test_target_balances_concepts_over_all_shards(tmp_path: Path) -> None:
    captions = [f"a {word} on a mat" for word in ("dog", "cat", "kite") for _ in range(20)] + ["nothing much"] * 4
    images = table(tmp_path / "mine", captions)
    report = generate(images, None, tmp_path / "whole", target=6)
    pairs = rows(tmp_path / "whole" / "align.json")
    assert len(pairs) == report.captions == 6
    left = rows(tmp_path / "whole" / "rejected.jsonl")
    assert {row["reason"] for row in left} == {"caption not chosen for --target"}
    assert len(left) == report.pictures - 6
    assert not {row["id"] for row in left} & {row["id"] for row in pairs}
    for index in (1, 2, 3):
        generate(images, None, tmp_path / f"data-{index}", target=6, shard=f"{index}/3")
    merge(tmp_path / "data", [tmp_path / f"data-{index}" for index in (1, 2, 3)])
    for name in ("align.json", "README.md", "card.json"):
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert "at most 6, chosen so that concepts are balanced" in (tmp_path / "data" / "README.md").read_text()
    with pytest.raises(UsageError, match="--target 0 keeps no caption; give 1 or more"):
        generate(images, None, tmp_path / "none", target=0)
    few = table(tmp_path / "few", ["a dog", "a cat", "a kite", "a mat"])
    with pytest.raises(DataError, match=r"--target 5: no noun phrase is in 3 of the 2 captions.*leave --target out"):
        generate(few, None, tmp_path / "none", target=5)
    assert not (tmp_path / "none").exists()


def test_a_context_file_claims_no_absence_and_no_number_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    box = {"category": "person", "bbox": [0.1, 0.1, 0.3, 0.9]}
    entries = []
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(b"jpeg")
        caption = "A person walks by." if number % 2 else "A busy street."
        entries.append({"id": str(number), "image": f"{number}.jpg", "captions": [caption], "instances": [box]})
    (folder / "context.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    report = generate(folder, None, tmp_path / "data", kinds=KINDS)
    assert report.source == "LLaVA context"
    counted = [sample["id"] for sample in rows(tmp_path / "data" / "instruct.json") if sample["type"] == "count"]
    assert counted
    assert all(int(identity.split("#")[0]) % 2 for identity in counted)
    assert "presence" not in report.by_type  # each "yes" needs a "no"


def test_pictures_alone_are_refused_with_the_flag(tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(b"jpeg")
    with pytest.raises(
        UsageError,
        match=r"bare has pictures and neither captions nor boxes \(pictures only\), .* --teacher openai --see",
    ):
        generate(folder, None, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_shards_have_folders_of_their_own(coco: Path, tmp_path: Path) -> None:
    generate(coco, None, tmp_path / "data", shard="1/2")
    for other, holds in (("2/2", "shard 1/2"), (None, "shard 1/2")):
        with pytest.raises(UsageError, match=f"data holds {holds}; give each shard a folder of its own with --out"):
            generate(coco, None, tmp_path / "data", shard=other)
    generate(coco, None, tmp_path / "data", shard="1/2")
    generate(coco, None, tmp_path / "all")
    with pytest.raises(UsageError, match="all holds the whole data set; give each shard"):
        generate(coco, None, tmp_path / "all", shard="1/2")
    with pytest.raises(UsageError, match="--shard '3/2' is no share"):
        generate(coco, None, tmp_path / "none", shard="3/2")
    with pytest.raises(DataError, match="--shard 1/1000 holds none of the 12 pictures to train on; use fewer shards"):
        generate(coco, None, tmp_path / "none", shard="1/1000")
    assert not (tmp_path / "none").exists()


def test_broken_characters_break_nothing(tmp_path: Path, split: Split) -> None:
    """Half a character in a caption, a file name that is no UTF-8, a listed name that no disk can have."""
    split(tmp_path / "coco", "train", [(["a dog \ud83d here"], [])] * 2)
    generate(tmp_path / "coco", None, tmp_path / "data")
    (pair,) = rows(tmp_path / "data" / "align.json")
    assert pair["conversations"][1]["value"] == "a dog ? here"
    folder = table(tmp_path / "mine", ["a dog", "a cat", "a kite"])
    for name in (b"x\xff.jpg", b"y.jpg"):
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_bytes(b"jpeg")
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name[:-4] + b".txt"))).write_text("a mat")
    (folder / "captions.csv").unlink()
    generate(folder, None, tmp_path / "more")
    (listed,) = rows(tmp_path / "more" / "rejected.jsonl")[:1]
    assert listed == {"reason": "file name is not UTF-8", "image": "x\\udcff.jpg"}
    (folder / "captions.jsonl").write_text(
        '{"image": "0\\ud83d.jpg", "caption": "gone"}\n{"image": "y.jpg", "caption": "a"}\n'
        '{"image": "000.jpg", "caption": "a"}\n'
    )
    generate(folder, folder / "captions.jsonl", tmp_path / "third")
    assert rows(tmp_path / "third" / "rejected.jsonl")[0] == {"reason": "picture not on disk", "image": "0?.jpg"}
