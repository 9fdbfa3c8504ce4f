import json
from pathlib import Path

import pytest

from qllava.errors import DataError
from qllava.evaluate.questions import Question, read_questions

GOOD = {
    "id": "1",
    "image": "a.jpg",
    "question": "What color?",
    "answers": ["red"],
    "kind": "conversation",
    "type": "color",
}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "q.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_reads_what_gen_data_writes(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "", {"id": 2, "image": None, "question": "How many?", "answer": 2, "kind": "count"})
    assert read_questions(path) == [
        Question("1", "a.jpg", "What color?", ("red",), "color"),
        Question("2", None, "How many?", ("2",), "count"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no question"),
        (["{"], "line 1 is not JSON"),
        ([[1]], "line 1 is list, not an object"),
        ([{}], "line 1 lacks `id`"),
        ([GOOD | {"image": 3}], "line 1: image=3 is not a path"),
        ([GOOD | {"question": " "}], "line 1: question is ' '; give a text"),
        ([GOOD | {"answers": []}], "line 1: answers is empty"),
        ([GOOD | {"answers": [None]}], "line 1: answers is None; give a text"),
        ([GOOD, GOOD], "line 2: id '1' was used on line 1; ids must differ"),
    ],
)
def test_bad_files_say_where_and_why(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(write(tmp_path, *rows))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; `qllava gen-data` writes"):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_questions(tmp_path / "b")
