"""Merging: what was split into shards comes back byte for byte, and what is no shard of one run is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.lessons import KINDS
from qllava.datagen.merge import LINES, LISTS, merge
from qllava.datagen.pipeline import generate
from qllava.errors import DataError, UsageError

Split = Callable[..., None]
SAMPLES = (*LISTS, "heldout.jsonl")


@pytest.fixture
def whole(tmp_path: Path, split: Split) -> Path:
    """A data folder of 60 pictures, two that are missing, and a split that is."""
    labels = [("dog", [5, 5, 20, 20]), ("circle", [70, 70, 20, 20])]
    pictures = [([f"a dog and circle number {n}", "<image>"][: 1 + n % 2], labels) for n in range(60)]
    split(tmp_path / "coco", "train", pictures, skip=[7, 11])
    split(tmp_path / "coco", "val", pictures[:9], first=500)
    split(tmp_path / "coco", "extra", pictures[:3], first=700, skip=[700, 701, 702])
    generate(tmp_path / "coco", None, tmp_path / "whole", kinds=KINDS)
    return tmp_path / "whole"


def entries(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if path.suffix == ".json":
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n")
    else:
        path.write_text("".join(f"{line}\n" for line in lines))


def seal(folder: Path, **changes: Any) -> Path:
    """Write the card of a folder anew, from its files."""
    card = json.loads((folder / "card.json").read_text()) | changes
    names = [name for name in (*LISTS, *LINES, "README.md") if (folder / name).exists()]
    card["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def share(whole: Path, index: int, of: int) -> Path:
    """One shard as gen-data writes it."""
    folder = whole.with_name(f"shard-{index}")
    generate(whole.with_name("coco"), None, folder, kinds=KINDS, shard=f"{index}/{of}")
    return folder


@pytest.mark.parametrize("of", [2, 3])
def test_shards_give_back_the_whole(whole: Path, tmp_path: Path, of: int) -> None:
    shards = [share(whole, index, of) for index in range(1, of + 1)]
    assert all(len(entries(folder / "align.json")) > 5 for folder in shards)
    merged = merge(tmp_path / "data", shards[::-1])
    for name in (*SAMPLES, "responses.jsonl", "README.md"):
        assert (tmp_path / "data" / name).read_bytes() == (whole / name).read_bytes(), name
    rejected = [(folder / "rejected.jsonl").read_text().splitlines() for folder in (whole, tmp_path / "data")]
    assert sorted(rejected[0]) == sorted(rejected[1])
    assert [json.loads(line)["reason"] for line in rejected[1][:3]] == [
        "split not on disk",
        *["picture not on disk"] * 2,
    ]
    cards = [json.loads((folder / "card.json").read_text()) for folder in (whole, tmp_path / "data")]
    digest = cards[1]["files"].pop("rejected.jsonl")
    assert digest == hashlib.sha256((tmp_path / "data" / "rejected.jsonl").read_bytes()).hexdigest()
    del cards[0]["files"]["rejected.jsonl"]
    assert cards[1] == cards[0]
    assert (merged.folders, merged.repeated, merged.lacking) == (of, 3 * (of - 1), ())
    assert merged.images == (tmp_path / "coco").resolve()
    assert not list(tmp_path.glob(".data*"))


def test_folders_of_real_runs_about_different_pictures(tmp_path: Path, split: Split) -> None:
    images, two = [(["a dog"], [("dog", [5, 5, 20, 20])])] * 4, tmp_path / "two"
    split(tmp_path / "coco", "one", images)
    split(tmp_path / "coco", "two", images, first=50)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for path in (tmp_path / "coco" / "annotations").glob(f"*_{name}.json"):
            shutil.copy(path, tmp_path / name)
        generate(tmp_path / "coco", tmp_path / name, tmp_path / f"data-{name}")
    merge(tmp_path / "deep" / "data", [tmp_path / "data-one", tmp_path / "data-two"])
    card = json.loads((tmp_path / "deep" / "data" / "card.json").read_text())
    assert card["image_root"] == "../../coco"
    align = entries(tmp_path / "deep" / "data" / "align.json")
    assert card["counts"]["captions"] == card["counts"]["pictures"] == len(align) == 4
    assert [row["image"].split("/")[0] for row in align] == ["one", "one", "two", "two"]
    assert all((tmp_path / "deep" / "data" / card["image_root"] / row["image"]).is_file() for row in align)
    # The same pictures again share their ids.
    shutil.copytree(tmp_path / "data-two", tmp_path / "copy")
    with pytest.raises(DataError, match=r"id 'two/0+\d+' is in .*data-two/align\.json and in .*copy/align\.json"):
        merge(tmp_path / "data", [tmp_path / "data-two", tmp_path / "copy"])
    assert not (tmp_path / "data").exists()
    assert two.is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher": "openai"},
            r"has teacher 'openai' and .*shard-1/card\.json has 'template'; only shards",
        ),
        ({"model": "gpt"}, "has model 'gpt'"),
        ({"seed": 7}, "has seed 7 and"),
        ({"questions": 2}, "has questions 2 and"),
        ({"kinds": ["detail"]}, r"has kinds \['detail'\] and"),
        ({"image_root": "../elsewhere"}, "has image_root '/.*/elsewhere' and"),
        ({"held_out_rule": "other"}, "has held_out_rule 'other' and"),
        ({"prompts": {"detail": "ff"}}, "has prompts .* has None"),
        ({"schema_version": 9}, "has schema_version 9, not 1"),
        ({"counts": None}, "lacks image_root, counts or files"),
    ],
)
def test_what_is_no_shard_of_the_same_run(whole: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    shards = [share(whole, 1, 2), seal(share(whole, 2, 2), **changes)]
    with pytest.raises(DataError, match=message) as caught:
        merge(tmp_path / "data", shards)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_damaged_and_missing_folders(whole: Path, tmp_path: Path) -> None:
    one, two = share(whole, 1, 2), share(whole, 2, 2)
    with (two / "instruct.json").open("a") as file:
        file.write(" ")
    with pytest.raises(DataError, match=r"shard-2/instruct\.json is not what card\.json beside it says"):
        merge(tmp_path / "data", [one, two])
    (two / "instruct.json").unlink()
    with pytest.raises(DataError, match=r"shard-2/instruct\.json is not there; run the command"):
        merge(tmp_path / "data", [one, two])
    with pytest.raises(DataError, match=r"coco/card\.json cannot be read .*; name folders that gen-data wrote"):
        merge(tmp_path / "data", [one, tmp_path / "coco"])
    (two / "card.json").write_text("{")
    with pytest.raises(DataError, match=r"shard-2/card\.json is not JSON"):
        merge(tmp_path / "data", [one, two])


def test_places_that_cannot_work(whole: Path, tmp_path: Path) -> None:
    one = share(whole, 1, 2)
    for out, folders, message in (
        (tmp_path / "data", [one], "1 folder is nothing to merge; give it the folders"),
        (tmp_path / "data", [one, tmp_path / "x" / ".." / "shard-1"], "is given twice"),
        (whole, [one, tmp_path / "two"], "exists and is not an empty folder; name a new one"),
        (whole / "card.json", [one, tmp_path / "two"], "exists and is not an empty folder"),
    ):
        with pytest.raises(UsageError, match=message):
            merge(out, folders)
    assert (whole / "card.json").is_file()


def test_shards_that_say_which_they_are(whole: Path, tmp_path: Path) -> None:
    one, two = (seal(share(whole, index, 3), shard=f"{index}/3") for index in (1, 2))
    assert merge(tmp_path / "data", [one, two]).lacking == ("3/3",)
    assert "shard" not in json.loads((tmp_path / "data" / "card.json").read_text())
    with pytest.raises(DataError, match="are both shard 1/3; give each once"):
        merge(tmp_path / "other", [one, seal(two, shard="1/3")])
    with pytest.raises(DataError, match="has shard '1/4' and"):
        merge(tmp_path / "other", [one, seal(two, shard="1/4")])


def test_a_language_models_answers_costs_and_usage(whole: Path, tmp_path: Path) -> None:
    shards = [share(whole, index, 2) for index in (1, 2)]
    head = '{"journal": "answers", "version": 1}\n'
    for number, folder in enumerate(shards, start=1):
        (folder / "responses.jsonl").write_text(head + f'{{"key":"a{number}","response":{{}}}}\n')
        run = {"endpoint": f"http://host{number}/v1", "prompts": {"detail": "ff"}, "mix": {"detail": 1.0}}
        run |= {"answers": 10, "unasked": number}
        run["usage"] = {"prompt_tokens": 100 * number, "cached_tokens": 1, "completion_tokens": 7}
        seal(folder, teacher="openai", model="m", cost_usd=0.25 * number, model_run=run)
    merge(tmp_path / "data", shards)
    text = (tmp_path / "data" / "responses.jsonl").read_text()
    assert text == head + '{"key":"a1","response":{}}\n{"key":"a2","response":{}}\n'
    card = json.loads((tmp_path / "data" / "card.json").read_text())
    assert card["cost_usd"] == 0.75
    assert card["model_run"] == {
        "endpoint": "http://host1/v1, http://host2/v1",
        "prompts": {"detail": "ff"},
        "mix": {"detail": 1.0},
        "answers": 20,
        "unasked": 3,
        "usage": {"prompt_tokens": 300, "cached_tokens": 2, "completion_tokens": 14},
    }
    words = " ".join((tmp_path / "data" / "README.md").read_text().split())
    assert "`m` at http://host1/v1, http://host2/v1: 20 answers, 300 prompt tokens (2 of them cached)" in words
    assert "0.75 USD by the listed prices. 3 samples were not asked for yet" in words
    seal(shards[1], cost_usd=None)
    merge(tmp_path / "free", shards)
    assert json.loads((tmp_path / "free" / "card.json").read_text())["cost_usd"] is None
