import json
from pathlib import Path

import pytest

from qllava.errors import DataError
from qllava.evaluate.kept_answers import keep, read_kept

IDENTITY = {"questions": "abc", "model": "runs/finetune-001"}


def test_answers_are_on_the_disk_as_they_come_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    assert read_kept(path, IDENTITY) == {}
    coming = keep(path, IDENTITY, iter([("1", "red"), ("2", "é\nblue"), ("3", "never")]))
    next(coming)
    next(coming)
    assert read_kept(path, IDENTITY) == {"1": "red", "2": "é\nblue"}
    coming.close()
    list(keep(path, IDENTITY, [("3", "green")]))
    assert read_kept(path, IDENTITY) == {"1": "red", "2": "é\nblue", "3": "green"}
    assert json.loads(path.read_text().splitlines()[0]) == {"answers": IDENTITY}


@pytest.mark.parametrize("cut", [1, 8, 25])
def test_a_line_cut_short_is_answered_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "answers.jsonl"
    list(keep(path, IDENTITY, [("1", "red"), ("2", "blue")]))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert read_kept(path, IDENTITY) == {"1": "red"}
    list(keep(path, IDENTITY, [("2", "blue")]))
    assert path.read_bytes() == whole


def test_a_file_of_which_not_even_the_head_was_written(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"answ')
    assert read_kept(path, IDENTITY) == {}
    list(keep(path, IDENTITY, [("1", "red")]))
    assert read_kept(path, IDENTITY) == {"1": "red"}


def test_answers_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    list(keep(path, IDENTITY, [("1", "red")]))
    with pytest.raises(DataError, match=r"holds answers of another model \('runs/finetune-001', not 'x'\)"):
        read_kept(path, IDENTITY | {"model": "x"})
    path.write_text(path.read_text() + "junk\n" + '{"id": "2", "answer": "blue"}\n')
    with pytest.raises(DataError, match=r"line 3 is no answer; remove the line"):
        read_kept(path, IDENTITY)
    path.write_text("[]\n")
    with pytest.raises(DataError, match=r"holds answers of another questions"):
        read_kept(path, IDENTITY)
