"""What the chat page shows, and what happens when somebody uses it: Gradio's components over the dialogue."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from qllava.errors import QllavaError
from qllava.infer.sampling import Sampling
from qllava.serve.dialogue import Answer, Dialogue, Talk
from qllava.serve.examples import Example

# Uploaded pictures are looked at this often, and those of yesterday deleted; all of them when the server ends.
_CLEANING_SECONDS = (3600, 86400)
# Where the slider ends, unless the server's default is more.
_MOST_TOKENS = 2048
_BLIND = "What the model says when it sees nothing. If the two keep agreeing, it does not look."

History = list[dict[str, Any]]


def lay_out(
    dialogue: Dialogue, *, model: str, sampling: Sampling, examples: Sequence[Example], picture: Path | None
) -> gr.Blocks:
    """The page, not yet shown anywhere; the arguments are those of `mount_page`."""
    page: gr.Blocks = gr.Blocks(
        title=f"{model} - qllava",
        analytics_enabled=False,
        delete_cache=_CLEANING_SECONDS,
        fill_height=True,
        fill_width=True,
    )
    with page:
        gr.Markdown(f"### qllava · `{model}`")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                image = gr.Image(
                    None if picture is None else str(picture),
                    label="Picture",
                    type="filepath",
                    image_mode=None,  # as it is: the intake checks and reads the file
                    sources=["upload", "clipboard"],
                    height=260,
                    elem_id="picture",
                )
                if examples:
                    offered = gr.Dataset(
                        components=[gr.Image(visible=False)],
                        samples=[[str(example.image)] for example in examples],
                        type="index",
                        label="Examples",
                        elem_id="examples",
                    )
                blind = gr.Checkbox(label="Answer without the picture, too", info=_BLIND, elem_id="blind")
                with gr.Accordion("Sampling", open=False):
                    controls = _controls(sampling)
                anew = gr.Button("New conversation", size="sm")
            with gr.Column(scale=3):
                with gr.Row():
                    seeing = _chat("Conversation", "seeing")
                    unseeing = _chat("Without the picture", "unseeing", visible=False)
                box = gr.Textbox(
                    placeholder="Ask something. Enter sends, Shift+Enter breaks the line.",
                    show_label=False,
                    lines=1,
                    max_lines=8,
                    submit_btn=True,
                    autofocus=True,
                    elem_id="question",
                )

        async def ask(
            question: str, file: str | None, seen: History, unseen: History, both: bool, *drawn: float
        ) -> AsyncIterator[dict[Any, Any]]:
            shown = converse(dialogue, question, file, seen, unseen if both else None, drawn)
            async for chat, blind_chat, entry in shown:
                yield {seeing: chat, unseeing: gr.skip() if blind_chat is None else blind_chat, box: entry}

        asked = box.submit(
            ask,
            [box, image, seeing, unseeing, blind, *controls],
            [seeing, unseeing, box],
            concurrency_limit=None,  # the reception counts
            show_progress="hidden",
            api_visibility="private",
        )
        # Gradio streams what is queued, and a question that is sent while such a stream is being closed would never be
        # heard of: so nothing but questions is queued.
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        box.stop(_idle, None, box, cancels=[asked], **at_once)
        for start in (anew.click, image.change):
            start(lambda: ([], [], _idle()), None, [seeing, unseeing, box], cancels=[asked], **at_once)
        blind.change(lambda shown: gr.Chatbot(visible=shown), blind, unseeing, **at_once)
        if examples:

            def take(number: int) -> tuple[str, str]:
                return str(examples[number].image), examples[number].question

            offered.click(take, offered, [image, box], **at_once)
    return page


def _controls(sampling: Sampling) -> list[Any]:
    tokens = sampling.max_new_tokens
    return [
        gr.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature", info="0: always the likeliest word"),
        gr.Slider(0.05, 1, sampling.top_p, step=0.05, label="Top-p"),
        gr.Slider(1, max(_MOST_TOKENS, tokens), tokens, step=1, label="Longest answer, tokens"),
        gr.Number(sampling.seed, label="Seed", precision=0, minimum=0),
    ]


def _chat(label: str, name: str, *, visible: bool = True) -> gr.Chatbot:
    return gr.Chatbot(
        label=label,
        elem_id=name,
        visible=visible,
        height="calc(100dvh - 170px)",
        buttons=["copy_all"],
        # What a model says is text, shown as it is: markup could name pictures elsewhere, or hide what was said.
        render_markdown=False,
        latex_delimiters=[],
        feedback_options=None,
        placeholder="Show it a picture and ask about it.",
    )


def _idle() -> gr.Textbox:
    return gr.Textbox(submit_btn=True, stop_btn=False)


async def converse(
    dialogue: Dialogue, question: str, file: str | None, seen: History, unseen: History | None, drawn: Sequence[float]
) -> AsyncIterator[tuple[History, History | None, Any]]:
    """What becomes of a question on the page.

    Args:
        dialogue: answers.
        question: as it was typed.
        file: the picture's, if there is one.
        seen: the chat so far.
        unseen: the chat without the picture; None where it is not wanted.
        drawn: temperature, top-p, longest answer in tokens, seed.

    Yields: what both chats and the entry show, again whenever there is more.
    Raises:
        gr.Error: the picture or a control cannot be used; the browser shows it.
    """
    question = question.strip()
    if not question:
        return
    picture = _read(file)
    talks = [Talk(said(seen), picture)]
    if unseen is not None and picture is not None:
        talks.append(Talk(said(unseen)))
    else:
        unseen = None
    before = [list(seen), list(unseen or [])]
    answers: tuple[Answer, ...] = ()
    entry: Any = gr.Textbox("", submit_btn=False, stop_btn=True)
    async for answers in dialogue.ask(question, talks, _sampling(drawn)):
        now = [turns(history, question, answer) for history, answer in zip(before, answers, strict=False)]
        yield now[0], None if unseen is None else now[1], entry
        entry = gr.skip()
    for talk, answer in zip(("", " without the picture"), answers, strict=False):
        if answer.error is not None:
            gr.Warning(f"The answer{talk} failed: {answer.error}", duration=None)
        elif answer.ending == "length":
            gr.Info(f"The answer{talk} was cut: it reached the longest that was allowed.")
    # What got no word is not part of what was said, and may be asked again.
    now = [
        history if answer.error is not None and not answer.text else turns(history, question, answer)
        for history, answer in zip(before, answers, strict=False)
    ]
    lost = any(answer.error is not None and not answer.text for answer in answers)
    entry = gr.Textbox(question, submit_btn=True, stop_btn=False) if lost else _idle()
    yield now[0], None if unseen is None else now[1], entry


def _read(file: str | None) -> bytes | None:
    try:
        return None if file is None else Path(file).read_bytes()
    except OSError:
        raise gr.Error("The picture is no longer on the server; drop it again.") from None


def _sampling(drawn: Sequence[float]) -> Sampling:
    try:
        temperature, top_p, tokens, seed = drawn
        return Sampling(temperature=temperature, top_p=top_p, max_new_tokens=int(tokens), seed=int(seed))
    except TypeError:
        raise gr.Error("A sampling control is empty; give it a number.") from None
    except QllavaError as error:
        raise gr.Error(str(error)) from None


def turns(history: History, question: str, answer: Answer) -> History:
    """A chat with one more question and what is answered so far."""
    spoken = [_turn("user", question)]
    if answer.text:
        spoken.append(_turn("assistant", answer.text))
    return [*history, *spoken]


def said(history: History) -> tuple[tuple[str, str], ...]:
    """Question and answer in turn, of what a chat shows; a question without an answer was stopped before a word."""
    texts = [(turn["role"], _text(turn["content"])) for turn in history]
    return tuple(
        (question, answer)
        for (role, question), (next_role, answer) in itertools.pairwise(texts)
        if role == "user" and next_role == "assistant"
    )


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _text(content: Any) -> str:
    return "".join(part["text"] for part in content if part.get("type") == "text")
