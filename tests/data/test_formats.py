from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qllava.data.formats import load_conversations
from qllava.errors import DataError
from qllava.types import IMAGE, Conversation, text
from tests.data.golden import say

CAT: dict[str, Any] = {
    "id": "000000033471",
    "image": "000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "It is."},
    ],
}
TEXT_ONLY: dict[str, Any] = {
    "id": "t1",
    "kind": "chat",
    "conversations": [{"from": "human", "value": "Write <image> in HTML"}, {"from": "gpt", "value": "<img> 猫 😀"}],
    "extra": {"any": ["thing"]},
}


def _write(folder: Path, content: object, name: str = "data.json") -> Path:
    path = folder / name
    if name.endswith(".jsonl") and isinstance(content, list):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    path.write_bytes((content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)).encode())
    return path


def _row(**changes: Any) -> dict[str, Any]:
    return {**CAT, **changes}


def _turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in pairs]


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_llava_json_unchanged(tmp_path: Path, name: str) -> None:
    table = load_conversations(_write(tmp_path, [CAT, TEXT_ONLY, CAT], name), image_root=tmp_path)
    assert len(table) == 3
    assert table[0] == Conversation(
        "000000033471",
        ("000000033471.jpg",),
        (
            {"role": "user", "content": [IMAGE, text("\nWhat is this?")]},
            say("assistant", "A cat."),
            say("user", "Why?"),
            say("assistant", "It is."),
        ),
    )
    assert table[1] == Conversation(
        "t1", (), (say("user", "Write <image> in HTML"), say("assistant", "<img> 猫 😀")), kind="chat"
    )
    assert table[-1] == table[2] == table[0]  # LLaVA-Instruct-150K repeats ids
    assert list(table) == [table[0], table[1], table[2]]
    assert table.image_root == tmp_path
    for index in (3, -4):
        with pytest.raises(IndexError):
            table[index]


@pytest.mark.parametrize("layout", ["indented", "crlf", "bom", "escaped", "tight"])
def test_rows_are_found_however_the_json_is_laid_out(tmp_path: Path, layout: str) -> None:
    rows = [_row(id=f"é{index}") for index in range(5)]
    written = {
        "indented": json.dumps(rows, indent=4, ensure_ascii=False),
        "crlf": json.dumps(rows, indent=1, ensure_ascii=False).replace("\n", "\r\n"),
        "bom": "\ufeff" + json.dumps(rows, ensure_ascii=False),
        "escaped": json.dumps(rows),
        "tight": json.dumps(rows, separators=(",", ":"), ensure_ascii=False),
    }[layout]
    table = load_conversations(_write(tmp_path, written))
    assert [conversation.id for conversation in table] == [f"é{index}" for index in range(5)]


def test_blank_lines_and_a_missing_last_line_break_in_jsonl(tmp_path: Path) -> None:
    line = json.dumps(CAT)
    assert len(load_conversations(_write(tmp_path, f"\n{line}\n\n{line}", "a.jsonl"))) == 2


def test_a_missing_id_is_the_index(tmp_path: Path) -> None:
    row = {key: value for key, value in CAT.items() if key != "id"}
    table = load_conversations(_write(tmp_path, [row, _row(id=7)]))
    assert [conversation.id for conversation in table] == ["0", "7"]


@pytest.mark.parametrize("value", ["What is\n<image>\nthis?", "What is <image> this?", "<image>What is\nthis?"])
def test_the_picture_comes_first_as_in_llavas_code(tmp_path: Path, value: str) -> None:
    path = _write(tmp_path, [_row(conversations=_turns(("human", value), ("gpt", "A cat.")))])
    first = load_conversations(path)[0].messages[0]["content"]
    assert first == [IMAGE, text("What is\nthis?")]
    written = load_conversations(path, image_position="as_written")[0].messages[0]["content"]
    assert written.index(IMAGE) == (0 if value.startswith("<image>") else 1)


def test_only_as_many_placeholders_as_images(tmp_path: Path) -> None:
    turns = _turns(
        ("human", "<image> and <image>, then <image>"), ("gpt", "<image>"), ("human", "<image>"), ("gpt", "x")
    )
    one = load_conversations(_write(tmp_path, [_row(conversations=turns)]))[0]
    assert [message["content"] for message in one.messages] == [
        [IMAGE, text(" and <image>, then <image>")],
        [text("<image>")],
        [text("<image>")],
        [text("x")],
    ]
    row = {"images": ["a.jpg", "b.jpg"], "conversations": turns}
    two = load_conversations(_write(tmp_path, [row]))[0]
    assert two.images == ("a.jpg", "b.jpg")
    assert two.messages[0]["content"] == [IMAGE, text(" and "), IMAGE, text(", then <image>")]
    assert two.messages[2]["content"] == [text("<image>")]


def test_sharegpt_rows_that_begin_or_end_halfway(tmp_path: Path) -> None:
    turns = _turns(("system", "S"), ("gpt", "..."), ("human", "Hi"), ("gpt", "Yo"), ("human", "and?"))
    found = load_conversations(_write(tmp_path, [{"id": "s", "conversations": turns}]))[0]
    assert found.messages == (say("system", "S"), say("user", "Hi"), say("assistant", "Yo"))


MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is <image>?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
]
EXPECTED = ({"role": "user", "content": [IMAGE, text("What is <image>?")]}, say("assistant", "A cat."))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": MESSAGES, "images": ["a.jpg"]},
        {"messages": MESSAGES, "image": "a.jpg"},
        {"messages": MESSAGES, "images": [{"path": "a.jpg", "bytes": None}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "path": "a.jpg"}, MESSAGES[0]["content"][1]]},
                MESSAGES[1],
            ]
        },
    ],
)
def test_messages_with_structured_content(tmp_path: Path, row: dict[str, Any]) -> None:
    found = load_conversations(_write(tmp_path, [row], "a.jsonl"))[0]
    assert (found.images, found.messages) == (("a.jpg",), EXPECTED)


def test_messages_with_plain_strings(tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}],
        "images": ["a.jpg"],
    }
    found = load_conversations(_write(tmp_path, [row]))[0]
    assert found.messages == ({"role": "user", "content": [IMAGE, text("What?")]}, say("assistant", "A cat."))


@pytest.fixture
def _datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("_datasets_cache")
def test_parquet(tmp_path: Path) -> None:
    rows = [{"messages": MESSAGES, "images": ["a.jpg"]}, {"messages": MESSAGES, "images": ["b.jpg"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", tmp_path):
        table = load_conversations(source)
        assert [conversation.images for conversation in table] == [("a.jpg",), ("b.jpg",)]
        assert table[0].messages == EXPECTED
        assert table[0].id == "0"
    assert pickle.loads(pickle.dumps(table))[1] == table[1]  # noqa: S301 - our own bytes


@pytest.mark.usefixtures("_datasets_cache")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"messages": MESSAGES, "images": [{"bytes": b"x", "path": None}]}],
            "{path}, row 0: `images` holds the picture itself, not its name; "
            "save the pictures as files, put their names there, and give the folder with --images",
        ),
        (
            [{"question": "a", "answer": "b"}],
            "data set {path} has neither a `conversations` nor a `messages` column (columns: answer, question); "
            "convert it to LLaVA JSON",
        ),
    ],
)
def test_parquet_of_another_kind(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(DataError) as error:
        load_conversations(path)
    assert str(error.value) == message.format(path=path)


@pytest.mark.usefixtures("_datasets_cache")
def test_a_data_set_of_the_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: dict[str, Any] = {}

    def load_dataset(**arguments: Any) -> None:
        asked.update(arguments)
        raise FileNotFoundError("Couldn't find it\nanywhere")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as error:
        load_conversations("owner/name:validation")
    assert asked == {"path": "owner/name", "split": "validation"}
    assert str(error.value) == (
        "data set owner/name:validation cannot be opened (Couldn't find it anywhere); check its name and your network"
    )


def test_a_table_is_light_to_hand_to_workers(tmp_path: Path) -> None:
    table = load_conversations(_write(tmp_path, [_row(id=str(index)) for index in range(1000)]))
    sent = pickle.dumps(table)
    assert len(sent) < 1000 * 24 + 2000
    assert pickle.loads(sent)[999].id == "999"  # noqa: S301 - our own bytes


def test_a_file_that_changes_underneath_is_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path, [CAT])
    table = load_conversations(path)
    _write(tmp_path, [CAT, CAT])
    with pytest.raises(DataError, match=r"data.json changed while it was in use; start again"):
        table[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "{path} is empty; LLaVA JSON is a list of samples"),
        ("[]", "{path} holds no samples; write some with `qllava gen-data --images FOLDER`"),
        (
            {"images": [], "annotations": [], "categories": []},
            "{path} holds COCO annotations, not conversations; make some with `qllava gen-data --images FOLDER`",
        ),
        ({"data": [], "é": 1}, "{path} holds an object with the keys data, é; LLaVA JSON is a list of samples"),
        ('"text"', "{path} holds a str; LLaVA JSON is a list of samples"),
        (
            '{"id": 1}\n{"id": 2}',
            "{path} is not JSON (Extra data: line 2 column 1 (char 10)); LLaVA JSON is a list of samples; "
            "for one object a line use the ending .jsonl",
        ),
        (json.dumps([CAT, CAT])[:-20], "{path} is not JSON (* was it cut short? write it again"),
        (json.dumps([CAT])[:-1], "{path} is not JSON (no , or ] at line 1); was it cut short? write it again"),
        (
            ["a"],
            '{path}, row 0 is a text, not an object with `conversations`; each sample is {{"id": ..., '
            '"image": "a.jpg", "conversations": [{{"from": "human", "value": ...}}, {{"from": "gpt", "value": ...}}]}}',
        ),
        (
            [CAT, {"id": "é", "caption": "x"}],
            "{path}, row 1 (id é) has neither `conversations` nor `messages` (keys: id, caption); each sample is *",
        ),
        (
            [_row(conversations=[])],
            "{path}, row 0 (id 000000033471): `conversations` is empty; write at least one human and one gpt turn",
        ),
        (
            [_row(conversations="hi")],
            "{path}, row 0 (id 000000033471): `conversations` is a text; write at least one human and one gpt turn",
        ),
        (
            [_row(conversations=_turns(("bot", "x")))],
            "{path}, row 0 (id 000000033471), turn 0: unknown `from` 'bot'; use human, gpt or system",
        ),
        (
            [_row(conversations=[{"from": "human"}])],
            "{path}, row 0 (id 000000033471), turn 0: `value` is missing; write a text",
        ),
        (
            [_row(conversations=_turns(("human", "a"), ("human", "b"), ("gpt", "c")))],
            "{path}, row 0 (id 000000033471), turn 1: expected assistant, found user; "
            "turns alternate, human first, after an optional system turn",
        ),
        (
            [_row(conversations=_turns(("human", "a"), ("gpt", "b"), ("system", "c"), ("gpt", "d")))],
            "{path}, row 0 (id 000000033471), turn 2: expected user, found system; "
            "turns alternate, human first, after an optional system turn",
        ),
        (
            [_row(conversations=_turns(("human", "a")))],
            "{path}, row 0 (id 000000033471) has no question with an answer; write at least one human and one gpt turn",
        ),
        ([_row(image=3)], "{path}, row 0 (id 000000033471): `image` holds a int; write the file name of the picture"),
        (
            [{"messages": [{"role": "tool", "content": "x"}]}],
            "{path}, row 0, turn 0: unknown `role` 'tool'; use user, assistant or system",
        ),
        (
            [{"messages": [{"role": "user", "content": None}]}],
            "{path}, row 0, turn 0: `content` is missing; write a text or a list of parts",
        ),
        (
            [{"messages": [{"role": "user", "content": [{"type": "video"}]}]}],
            "{path}, row 0, turn 0: a part of type 'video' cannot be used; use `text` and `image` parts",
        ),
        ([{"messages": []}], "{path}, row 0: `messages` is empty; write at least one user and one assistant turn"),
        (
            [
                {
                    "images": ["b.jpg"],
                    "messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"}]}, MESSAGES[1]],
                }
            ],
            "{path}, row 0 names images both in `images` and inside `messages`; keep one of them",
        ),
    ],
)
def test_bad_files_say_what_where_and_the_fix(tmp_path: Path, content: object, message: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(DataError) as error:
        load_conversations(path)
    before, star, after = message.format(path=path).partition("*")
    found = str(error.value)
    assert "\n" not in found
    if star:
        assert found.startswith(before)
        assert found.endswith(after)
    else:
        assert found == before


def test_more_bad_sources(tmp_path: Path) -> None:
    def message(source: str | Path) -> str:
        with pytest.raises(DataError) as error:
            load_conversations(source)
        return str(error.value)

    assert message("data/instruct.json") == (
        "data file data/instruct.json does not exist; write one with `qllava gen-data --images FOLDER`"
    )
    assert message("nothing").startswith("data file nothing does not exist")
    (tmp_path / "a.txt").write_text("x")
    assert message(tmp_path / "a.txt").endswith("is no data file that qllava reads; use .json, .jsonl or .parquet")
    (tmp_path / "empty").mkdir()
    assert message(tmp_path / "empty").endswith("holds no .parquet file; name the data file itself")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    assert message(tmp_path / "latin.json").endswith("; save it as UTF-8 JSON")
    assert "row 1 is not JSON" in message(_write(tmp_path, json.dumps(CAT) + "\n{", "bad.jsonl"))
