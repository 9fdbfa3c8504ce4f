from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qllava.data.chat_template import load_chat_template, stage_template, template_names
from qllava.errors import DataError, RecipeError
from tests.data.golden import CASES, FAMILIES, build_encoder, say

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LLAVA_V0 = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)

# The two-turn sample as the sources write it, by hand; what is trained stands between « and ».
TWO_TURNS = {
    "plain": "<s><image>«A cat.\n»«It is.\n»",
    "llava_v0": (
        f"<s>{LLAVA_V0}###Human: <image>\nWhat is this?###Assistant:« A cat.###»Human: Why?###Assistant:« It is.###»"
    ),
    "vicuna_v1": f"<s>{VICUNA} USER: <image>\nWhat is this? ASSISTANT:« A cat.</s>»USER: Why? ASSISTANT:« It is.</s>»",
    "chatml": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\n«A cat.<|im_end|>»\n"
        "<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n«It is.<|im_end|>»"
    ),
    "llama3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is this?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«A cat.<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«It is.<|eot_id|>»"
    ),
    "mistral": "<s>[INST] <image>\nWhat is this?[/INST]« A cat.</s>»[INST] Why?[/INST]« It is.</s>»",
}
STOPS = {
    "plain": ("\n",),
    "llava_v0": ("###",),
    "vicuna_v1": ("</s>",),
    "chatml": ("<|im_end|>",),
    "llama3": ("<|eot_id|>",),
    "mistral": ("</s>",),
}
# How a conversation with a system text of its own begins.
WITH_SYSTEM = {
    "plain": "<s><image>A cat.",
    "llava_v0": "<s>Be brief.###Human: <image>\n",
    "vicuna_v1": "<s>Be brief. USER: <image>\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\n",
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\n"
    ),
    "mistral": "<s>[INST] Be brief.\n\n<image>\n",
}


def test_the_shipped_templates() -> None:
    assert template_names() == sorted(TWO_TURNS)


@pytest.mark.parametrize("name", TWO_TURNS)
def test_two_turns_read_as_the_sources_write_them(name: str) -> None:
    template = load_chat_template(name)
    rendered, spans = template.render(CASES["multi_turn"].messages, {"bos_token": "<s>"})
    marked = rendered
    for start, end in reversed(spans):
        marked = f"{marked[:start]}«{marked[start:end]}»{marked[end:]}"
    assert marked == TWO_TURNS[name]
    assert template.stop == STOPS[name]


@pytest.mark.parametrize("name", TWO_TURNS)
def test_a_system_message_replaces_the_default(name: str) -> None:
    rendered, _ = load_chat_template(name).render(CASES["system"].messages, {"bos_token": "<s>"})
    assert rendered.startswith(WITH_SYSTEM[name])


def test_a_picture_is_set_apart_by_line_breaks_wherever_it_stands() -> None:
    template = load_chat_template("mistral")
    for parts, expected in (
        ((None, "What?"), "<image>\nWhat?"),
        ((None, "\n\n  What?"), "<image>\nWhat?"),
        (("What?", None), "What?\n<image>"),
        (("  What \n", None, " is it?"), "What\n<image>\nis it?"),
        ((None, None, "Same?"), "<image>\n<image>\nSame?"),
        ((None,), "<image>"),
        (("one ", "text"), "one text"),
    ):
        rendered, _ = template.render([say("user", *parts)], {"bos_token": ""})
        assert rendered == f"[INST] {expected}[/INST]"


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in FAMILIES for name in FAMILIES[family]])
def test_stock_transformers_renders_and_masks_the_same(family: str, name: str, tokenizers: dict[str, Any]) -> None:
    encoder = build_encoder(tokenizers[family], name, tokens_per_image=1)
    tokenizer, source = encoder.tokenizer, encoder.template.source
    for case in ("single", "multi_turn", "system", "text_only", "unicode"):
        messages = [dict(message) for message in CASES[case].messages]
        ours = encoder.encode(CASES[case])
        theirs = tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        assert theirs["input_ids"] == ours.input_ids
        if family != "llama2":  # where its offsets of the prepended space end before they start
            assert theirs["assistant_masks"] == ours.assistant_mask
        prompt = tokenizer.apply_chat_template(
            messages[:-1], chat_template=source, tokenize=False, add_generation_prompt=True
        )
        rendered, spans = encoder.template.render(CASES[case].messages, tokenizer.special_tokens_map)
        assert prompt == rendered[: spans[-1][0]]


def test_contents_that_are_plain_strings_render_too() -> None:
    messages: Any = [{"role": "user", "content": "Hi "}, {"role": "assistant", "content": " Yo"}]
    for name in template_names():
        rendered, _ = load_chat_template(name).render(messages, {"bos_token": ""})
        assert "Yo" in rendered


def test_which_template_a_stage_trains_with() -> None:
    assert stage_template("vicuna_v1", "plain", "align") == "plain"
    assert stage_template("llava_v0", "chat", "align") == "llava_v0"
    assert stage_template("vicuna_v1", "plain", "finetune") == "vicuna_v1"


def test_an_unknown_name_gets_the_closest() -> None:
    with pytest.raises(RecipeError) as error:
        load_chat_template("vicuna_v2")
    assert str(error.value) == (
        "unknown chat template 'vicuna_v2'; did you mean vicuna_v1? "
        "there are chatml, llama3, llava_v0, mistral, plain, vicuna_v1"
    )
    with pytest.raises(RecipeError, match=r"unknown chat template 'missing\.jinja'; there are chatml"):
        load_chat_template("missing.jinja")


def _own(folder: Path, source: str) -> str:
    (folder / "own.jinja").write_text(source)
    return str(folder / "own.jinja")


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content[-1].text }}\nA:{% else %}"
        "{% generation %} {{ m.content[0].text }}<end>{% endgeneration %}{% endif %}{% endfor %}"
    )
    template = load_chat_template(_own(tmp_path, source))
    assert (template.name, template.stop) == ("own", ("<end>",))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{% for %}",
            "chat template own, line 1: Expected an expression, got 'end of statement block'; correct the Jinja",
        ),
        (
            "{% for m in messages %}{{ m.role }}{% endfor %}",
            "chat template own does not mark what is trained; "
            "put each assistant turn between {% generation %} and {% endgeneration %}",
        ),
        (
            "{% generation %}{{ messages[1].content[0].text }}{% endgeneration %}<end>",
            "chat template own trains no end of an answer, so generation would never stop; "
            "put the end token before {% endgeneration %}",
        ),
    ],
)
def test_a_template_that_cannot_work_is_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_chat_template(_own(tmp_path, source))
    assert str(error.value) == message


def test_an_unknown_role_is_refused() -> None:
    messages: Any = [{"role": "tool", "content": "x"}]
    with pytest.raises(DataError) as error:
        load_chat_template("chatml").render(messages)
    assert str(error.value) == (
        "chat template chatml cannot render this conversation: role tool is unknown; use system, user or assistant"
    )


def test_templates_need_no_torch() -> None:
    code = (
        "import sys; from qllava.data.chat_template import load_chat_template as load; load('chatml'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
