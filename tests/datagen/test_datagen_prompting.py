"""What a teacher is sent, word for word, and what its key depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.lessons import Kind, Turn
from qllava.datagen.prompting import RequestBuilder, Sampling, describe
from qllava.datagen.prompts.load import Example, Prompt
from qllava.datagen.sources import Instance, Scene
from qllava.datagen.teachers.dialect import Dialect, adapted, first_dialect, merged
from qllava.types import Box

SCENE = Scene(
    "7",
    "7.jpg",
    ("A dog.", "A dog and people."),
    (Instance("dog", Box(0.1, 0.25, 1 / 3, 1.0)), Instance("person", Box(0.0, 0.0, 1.0, 0.5), crowd=True)),
    {},
)
PROMPT = Prompt("reasoning", "Write one.", (Example(("a cat",), ("cat: [0, 0, 1, 1]",), (Turn("Why?", "So."),)),), ())


def build(prompt: Prompt = PROMPT, **changes: Any) -> RequestBuilder:
    given: dict[str, Any] = {"model": "m", "sampling": Sampling(0.5, 99), "form": "json", "context": "captions+boxes"}
    given |= {"see": False, "image_root": Path("/nowhere"), **changes}
    return RequestBuilder({prompt.kind: prompt}, **given)


def test_the_context() -> None:
    boxes = "dog: [0.100, 0.250, 0.333, 1.000]\nperson (several): [0.000, 0.000, 1.000, 0.500]"
    assert describe(SCENE, boxes=True) == f"A dog.\nA dog and people.\n\n{boxes}"
    assert describe(SCENE, boxes=False) == "A dog.\nA dog and people."
    assert describe(replace(SCENE, captions=()), boxes=True) == boxes
    assert describe(replace(SCENE, captions=("half \ud83d",), instances=()), boxes=True) == "half ?"


def test_the_parameters() -> None:
    builder = build()
    request = builder.request(SCENE, "reasoning")
    assert request is not None
    text = builder.parameters(request, Dialect("text", "max_tokens"), None)
    assert text == {
        "model": "m",
        "temperature": 0.5,
        "max_tokens": 99,
        "messages": [
            {
                "role": "system",
                "content": "Write one.\n\nWrite them in this form, with nothing before or after:\n"
                "Question:\n<the question>\n===\nAnswer:\n<the answer>",
            },
            {"role": "user", "content": "a cat\n\ncat: [0, 0, 1, 1]"},
            {"role": "assistant", "content": "Question:\nWhy?\n===\nAnswer:\nSo."},
            {"role": "user", "content": describe(SCENE, boxes=True)},
        ],
    }
    schema = builder.parameters(request, Dialect("json", "max_completion_tokens", temperature=False), "data:x")
    assert sorted(schema) == ["max_completion_tokens", "messages", "model", "response_format"]
    assert schema["messages"][2]["content"] == '{"question": "Why?", "answer": "So."}'
    assert schema["messages"][-1]["content"] == [
        {"type": "text", "text": describe(SCENE, boxes=True)},
        {"type": "image_url", "image_url": {"url": "data:x"}},
    ]
    assert schema["response_format"]["json_schema"]["strict"] is True
    captions = build(context="captions")
    request = captions.request(SCENE, "reasoning")
    assert request is not None
    sent = captions.parameters(request, Dialect("text", "max_tokens"), None)["messages"]
    assert "[" not in sent[1]["content"] + sent[-1]["content"]


def test_most_tokens_bound_what_is_sent() -> None:
    import json

    builder = build(replace(PROMPT, system="Écris \N{SNOWMAN}."))
    request = builder.request(replace(SCENE, captions=("\N{SNOWMAN}" * 50,)), "reasoning")
    assert request is not None
    for form in ("json", "text"):
        body = builder.parameters(request, Dialect(form, "max_tokens"), None)  # type: ignore[arg-type]
        words = "".join(message["content"] for message in body["messages"])
        words += json.dumps(body.get("response_format", ""))
        assert builder.most_tokens(request)[0] >= len(words.encode())
    assert builder.most_tokens(request)[1] == 99


def test_the_key_names_all_that_shapes_the_answer(tmp_path: Path) -> None:
    (tmp_path / "7.jpg").write_bytes(b"one")

    def key(builder: RequestBuilder, scene: Scene = SCENE, kind: Kind = "reasoning") -> str:
        request = builder.request(scene, kind)
        assert request is not None
        return request.key

    others = [
        build(model="n"),
        build(sampling=Sampling(0.6, 99)),
        build(sampling=Sampling(0.5, 98)),
        build(form="text"),
        build(context="captions"),
        build(replace(PROMPT, system="Write two.")),
        build(see=True, image_root=tmp_path),
    ]
    keys = [key(build()), *map(key, others), key(build(), replace(SCENE, captions=("A cat.",)))]
    assert len(set(keys)) == len(keys)
    assert key(build()) == keys[0]
    assert key(build(), replace(SCENE, id="8", image="8.jpg")) == keys[0]  # the name is not told
    (tmp_path / "7.jpg").write_bytes(b"two")
    assert key(build(see=True, image_root=tmp_path)) not in keys
    assert build().request(replace(SCENE, captions=(), instances=()), "reasoning") is None


@pytest.mark.parametrize(
    ("complaint", "expected"),
    [
        ("Unsupported parameter: 'max_completion_tokens'. Use 'max_tokens' instead.", ("json", "max_tokens", True)),
        ('{"loc": ["body", "response_format"]}', ("text", "max_completion_tokens", True)),
        ("Unsupported value: 'temperature' does not support 0.7", ("json", "max_completion_tokens", False)),
        ("This model's context length is 4096", None),
    ],
)
def test_dialects(complaint: str, expected: tuple[str, str, bool] | None) -> None:
    sent = first_dialect("json", official=True)
    change = adapted(sent, complaint)
    if expected is None:
        assert change is None
        return
    assert change is not None
    learnt = change[0]
    assert (learnt.form, learnt.limit_field, learnt.temperature) == expected
    assert adapted(learnt, complaint) is None  # refused twice is a refusal
    other = merged(Dialect("text", "max_completion_tokens", temperature=False), learnt)
    assert (other.form, other.temperature) == ("text", False)
