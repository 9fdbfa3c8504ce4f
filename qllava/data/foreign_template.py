"""Conversations through a chat template that somebody else wrote: it says how to ask, not what is trained.

Published models' templates mark no trained text, or mark it without what ends it. So a prompt is what the template
renders with its generation prompt, as transformers' own `apply_chat_template` does, and an answer is what a rendered
conversation has beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qllava.data.chat_template import IMAGE_TOKEN, Span
from qllava.data.encode import ChatEncoder, Turns
from qllava.errors import DataError, ModelError
from qllava.types import IMAGE, Message, text


@dataclass(frozen=True)
class ForeignEncoder(ChatEncoder):
    """A `ChatEncoder` for any chat template; `template.stop` is empty: the model's own end tokens end an answer.

    The end of an answer is not among its tokens, so losses count its words alone.
    """

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """As `ChatEncoder.encode_prompt`: token ids up to where the answer starts."""
        if not messages or messages[-1]["role"] != "user":
            raise DataError("a prompt ends with the user's turn; add a question")
        escaped, _ = self._escape(messages)
        ids, _ = self._tokenize_whole(self._prompt(escaped))
        return self._expand(ids, [0] * len(ids))[0]

    def check(self) -> None:
        """Ask a probe, so that a template which drops the picture or the question is found before a thousand answers.

        Raises:
            ModelError: it does, or cannot be rendered.
        """
        try:
            rendered = self._prompt([{"role": "user", "content": [IMAGE, text("QUESTION")]}])
        except DataError as error:
            raise ModelError(f"{error}; give the model a chat template that takes a list of image and text") from None
        if rendered.count(IMAGE_TOKEN) != 1 or rendered.count("QUESTION") != 1 or "'type'" in rendered:
            raise ModelError(
                f"chat template of {self.template.name} writes a picture and a question as {rendered[:120]!r}; "
                f"it must hold {IMAGE_TOKEN} and the question once each"
            )

    def _prompt(self, messages: Sequence[Message]) -> str:
        return self.template.render(messages, self._template_variables, add_generation_prompt=True)[0]

    def _tokenize_turns(self, messages: Sequence[Message]) -> Turns:
        rendered, _ = self.template.render(messages, self._template_variables)
        ids, offsets = self._tokenize_whole(rendered)
        mask = [0] * len(ids)
        ends: list[int] = []
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start, end = self._answer_span(rendered, messages[: place + 1])
            # A token over the edge of prompt and answer belongs to the answer: the prompt alone does not end in it.
            inside = [i for i, (first, last) in enumerate(offsets) if last > start and first < end]
            for index in inside:
                mask[index] = 1
            ends.append(inside[-1] + 1 if inside else len(ids))
        return Turns(ids, mask, ends)

    def _answer_span(self, rendered: str, messages: Sequence[Message]) -> Span:
        """Where the last of `messages` stands in the rendered whole: behind the prompt that asks for it."""
        prompt = self._prompt(messages[:-1])
        answer = "".join(part["text"] for part in messages[-1]["content"]).strip()
        start = rendered.find(answer, len(prompt)) if rendered.startswith(prompt) else -1
        if start < 0 or rendered[len(prompt) : start].strip():
            raise ModelError(
                f"chat template of {self.template.name} does not write an answer right behind the prompt for it; "
                "losses cannot be measured through it, answers can"
            )
        return len(prompt), start + len(answer)

    def _tokenize_whole(self, rendered: str) -> tuple[list[int], list[Span]]:
        """Ids and offsets, with the start token that the tokenizer puts before a text which has none."""
        ids, offsets = self._tokenize(rendered)
        start = self.tokenizer.bos_token_id
        adds = start is not None and self.tokenizer("a")["input_ids"][0] == start
        if adds and not rendered.startswith(str(self.tokenizer.bos_token)):
            return [int(start), *ids], [(0, 0), *offsets]
        return ids, offsets
