"""Reading a language model's answers: every spelling of the format, no swapped roles; prompts; the mix of kinds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from qllava.datagen.answer_format import render, response_format
from qllava.datagen.judging import read_answer
from qllava.datagen.lessons import KINDS, Kind, Turn
from qllava.datagen.mix import DEFAULT_MIX, kinds_of, parse_mix, requests_a_picture, restrict
from qllava.datagen.parse import parse_answer
from qllava.datagen.prompts.load import load_prompts
from qllava.errors import UsageError

TWO = (Turn("What is it?", "A dog.\n\nA brown one."), Turn("Where is it?", "On the left."))


@pytest.mark.parametrize(
    "text",
    [
        render(TWO, "conversation", "text"),
        render(TWO, "conversation", "json"),
        f"```json\n{render(TWO, 'conversation', 'json')}\n```",
        f"<think>Question: no?</think>\n{render(TWO, 'conversation', 'text')}",
        "Sure, here it is:\n\n**Question:** What is it?\n**Answer:** A dog.\n\nA brown one.\n\n"
        "**Question:** Where is it?\n**Answer:** On the left.",
        "## Question 1:\nWhat is it?\n## Answer 1:\nA dog.\n\n\n\nA brown one.\n---\n## Question 2:\nWhere is it?\n"
        "## Answer 2:\nOn the left.\n---",
        "1. Q: What is it?\n   A: A dog.\n\nA brown one.\n2. Q: Where is it?\n   A: On the left.",
        "QUESTION :\r\nWhat is it?\r\n====\r\nANSWER :\r\nA dog.\r\n\r\nA brown one.\r\n=====\r\nquestion:\r\n"
        "Where is it?\r\n===\r\nanswer:\r\nOn the left.\r\n===",
    ],
)
def test_spellings(text: str) -> None:
    assert parse_answer(text, "conversation", cut_off=False).turns == TWO


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("Answer:\nYes.\nQuestion:\nIs it?", "conversation", "roles swapped"),
        ("Question:\nIs it?\nQuestion:\nReally?\nAnswer: Yes.", "conversation", "broken format"),
        ("Question:\nIs it?", "conversation", "broken format"),
        ("A dog sits there.", "conversation", "broken format"),
        ("{broken", "conversation", "broken format"),
        ('{"turns": []}', "conversation", "broken format"),
        ('{"turns": [{"question": 7, "answer": "x"}]}', "conversation", "broken format"),
        (render(TWO, "conversation", "text"), "reasoning", "broken format"),
        ("Question:\nIs it?\nAnswer:\n \n", "reasoning", "empty"),
        ("Question:\nIs it?\nAnswer:\nAn <Image> of it.", "reasoning", "holds <image>"),
        (render(TWO, "conversation", "text"), "detail", "broken format"),
        ('["x"]', "detail", "broken format"),
        (" \n", "detail", "empty"),
    ],
)
def test_what_is_left_out(text: str, kind: Kind, reason: str) -> None:
    parsed = parse_answer(text, kind, cut_off=False)
    assert parsed.turns == ()
    assert [rejection.reason for rejection in parsed.rejections] == [reason]


def test_what_is_cut_off_loses_its_last_turn() -> None:
    text = render(TWO, "conversation", "text")
    parsed = parse_answer(text, "conversation", cut_off=True)
    assert parsed.turns == TWO[:1]
    assert [rejection.reason for rejection in parsed.rejections] == ["cut off"]
    assert parse_answer(f"{text}\n===\nQuestion:\nAnd", "conversation", cut_off=True).turns == TWO
    for kind, cut in (("detail", "A dog on"), ("reasoning", text), ("conversation", '{"turns": [')):
        parsed = parse_answer(cut, kind, cut_off=True)  # type: ignore[arg-type]
        assert (parsed.turns, parsed.rejections[0].reason) == ((), "cut off")


def test_a_conversation_keeps_what_precedes_its_first_bad_turn() -> None:
    parsed = parse_answer(f"{render(TWO, 'conversation', 'text')}\nAnswer:\nBlue.", "conversation", cut_off=False)
    assert parsed.turns == TWO
    assert [rejection.reason for rejection in parsed.rejections] == ["roles swapped"]


def test_refusals_and_filters() -> None:
    refusal = {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}
    assert read_answer(refusal, "detail")[1].rejections[0].reason == "refusal"
    filtered = {"choices": [{"message": {"content": "A d"}, "finish_reason": "content_filter"}]}
    assert read_answer(filtered, "detail")[1].rejections[0].reason == "refusal"


@pytest.mark.parametrize("kind", KINDS)
def test_our_prompts(kind: Kind) -> None:
    prompt = load_prompts(None, KINDS)[kind]
    assert len(prompt.examples) == (2 if kind == "conversation" else 3)
    assert len(set(prompt.questions)) == (16 if kind == "detail" else 0)
    for example in prompt.examples:
        assert example.captions
        assert example.boxes
        for form in ("text", "json"):
            wanted = render(example.turns, kind, form)  # type: ignore[arg-type]
            assert parse_answer(wanted, kind, cut_off=False).turns == example.turns
        words = " ".join(f"{turn.question} {turn.answer}" for turn in example.turns).lower()
        assert not {"caption", "box", "coordinate"} & set(words.replace(".", " ").split())
    schema = response_format(kind)["json_schema"]["schema"]
    content = json.loads(render(prompt.examples[0].turns, kind, "json"))
    assert sorted(content) == sorted(schema["required"])


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "reasoning"
    folder.mkdir(parents=True)

    def fails(message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_prompts(tmp_path / "mine", ["reasoning"])

    fails(r"mine/reasoning/example-1\.context\.txt is missing; give each kind at least one example")
    (folder / "example-1.context.txt").write_text("a dog\na cat\n\ndog: [0, 0, 1, 1]\n")
    fails(r"example-1\.answer\.txt is missing; copy the layout")
    (folder / "example-1.answer.txt").write_text("It is a dog.")
    fails(r"example-1\.answer\.txt: no `Question:`; write it as Question:, its text, ===")
    (folder / "example-1.answer.txt").write_text("Question: Why?\nAnswer: So.")
    fails(r"system\.txt is missing")
    (folder / "system.txt").write_text(" \n")
    fails(r"system\.txt is empty")
    (folder / "system.txt").write_text("Write.")
    prompt = load_prompts(tmp_path / "mine", ["reasoning"])["reasoning"]
    assert (prompt.system, prompt.examples[0].turns) == ("Write.", (Turn("Why?", "So."),))
    assert (prompt.examples[0].captions, prompt.examples[0].boxes) == (("a dog", "a cat"), ("dog: [0, 0, 1, 1]",))
    assert prompt.digest != load_prompts(None, ["reasoning"])["reasoning"].digest


def test_the_mix_comes_out_and_is_stable() -> None:
    drawn = {n: kinds_of(f"train2017/{n:012d}", DEFAULT_MIX, 42) for n in range(5000)}
    counts = Counter(kind for kinds in drawn.values() for kind in kinds)
    assert counts["reasoning"] == 5000
    assert counts["conversation"] / 5000 == pytest.approx(58 / 77, abs=0.02)
    assert counts["detail"] / 5000 == pytest.approx(23 / 77, abs=0.02)
    assert sum(counts.values()) / 5000 == pytest.approx(requests_a_picture(DEFAULT_MIX), abs=0.03)
    assert drawn[17] == kinds_of(f"train2017/{17:012d}", DEFAULT_MIX, 42)
    assert drawn != {n: kinds_of(f"train2017/{n:012d}", DEFAULT_MIX, 43) for n in range(5000)}
    assert kinds_of("x", restrict(DEFAULT_MIX, ["detail"]), 42) == ("detail",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poem=3", "--mix 'poem=3' is not KIND=WEIGHT; kinds are conversation, detail, reasoning"),
        ("detail", "--mix 'detail' is not KIND=WEIGHT"),
        ("detail=-1", "--mix: detail has weight '-1', not a positive number"),
        ("detail=nan", "not a positive number"),
        ("detail=1,detail=2", "--mix: detail is named twice"),
    ],
)
def test_mixes_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_mix(text)


def test_mix_in_the_usual_order() -> None:
    assert parse_mix("reasoning=1, conversation=2.5") == {"conversation": 2.5, "reasoning": 1.0}
