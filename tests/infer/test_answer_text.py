import pytest

from qllava.checkpoint.load import LoadedRun
from qllava.infer.answer_text import AnswerText


def pieces(loaded: LoadedRun, said: str, *stops: str) -> tuple[list[str], AnswerText]:
    """Push a text byte by byte: the hardest way for it to come."""
    tokenizer = loaded.encoder.tokenizer
    ids = [i for byte in said.encode() for i in tokenizer.convert_tokens_to_ids([byte_token(byte)])]
    answer = AnswerText(tokenizer, stops)
    shown = [answer.push(i) for i in ids]
    return [piece for piece in [*shown, answer.finish()] if piece], answer


def byte_token(byte: int) -> str:
    """GPT-2's printable stand-in for a byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in plain else chr(256 + [b for b in range(256) if b not in plain].index(byte))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("red ball", ["r", "e", "d", " b", "a", "l", "l"]),
        (" é🙂!", ["é", "🙂", "!"]),
        ("a\n\n", ["a"]),
        ("", []),
    ],
)
def test_pieces_are_whole_characters_without_space_around(loaded: LoadedRun, said: str, expected: list[str]) -> None:
    assert pieces(loaded, said)[0] == expected


def test_half_a_character_at_the_end_is_dropped(loaded: LoadedRun) -> None:
    tokenizer = loaded.encoder.tokenizer
    answer = AnswerText(tokenizer)
    shown = [answer.push(tokenizer.convert_tokens_to_ids(byte_token(byte))) for byte in b"ok\xf0\x9f"]
    assert [*shown, answer.finish()] == ["o", "k", "", "", ""]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("yes ###Human", "yes"),
        ("a#b", "a#b"),
        ("a##", "a##"),
        ("###", ""),
        ("one\ntwo", "one\ntwo"),
    ],
)
def test_a_stop_text_and_all_behind_it_is_never_shown(loaded: LoadedRun, said: str, expected: str) -> None:
    shown, answer = pieces(loaded, said, "###")
    assert "".join(shown) == expected
    assert answer.stopped == ("###" in said)


def test_a_line_break_can_be_a_stop(loaded: LoadedRun) -> None:
    assert "".join(pieces(loaded, "a circle\nmore", "\n")[0]) == "a circle"


def test_special_tokens_are_not_text(loaded: LoadedRun) -> None:
    tokenizer = loaded.encoder.tokenizer
    answer = AnswerText(tokenizer)
    assert answer.push(tokenizer.convert_tokens_to_ids("<|im_start|>")) == ""
    assert answer.push(tokenizer.convert_tokens_to_ids("r")) == "r"
