"""From a conversation to token ids and the mask of what is trained.

The template renders the whole conversation and says which characters are the assistant's; the text is tokenised once,
and a token is trained if and only if it starts inside such a stretch. No length is ever counted twice, which is what
made LLaVA drop samples with "tokenization mismatch".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from qllava.data.chat_template import (
    IMAGE_TOKEN,
    PLAIN,
    ChatTemplate,
    Span,
    load_chat_template,
    template_names,
)
from qllava.data.control_text import BREAK, control_pattern, escape_control_text, special_tokens
from qllava.errors import DataError, ModelError, RecipeError
from qllava.types import Conversation, Message, text

_UNFINISHED = "\ufffd"


class SampleRejected(DataError):  # noqa: N818 - it is an outcome that callers count
    """A sample that cannot be trained on.

    Attributes:
        reason: too_long, no_trained_token, empty_answer, image_mismatch or control_text; counts are kept by it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[SampleRejected], tuple[str, str]]:
        """Both arguments, so that it survives the way back from a data worker."""
        return type(self), (self.reason, str(self))


@dataclass(frozen=True)
class Encoded:
    """One conversation as tokens.

    Attributes:
        input_ids: (T,) token ids; each image is `tokens_per_image` copies of the image token.
        assistant_mask: (T,) 1 = trained.
        images: names of the pictures, in the order of their tokens.
        dropped_turns: question-answer pairs cut from the end to fit.
        escaped: control texts in the data that were made harmless.
    """

    input_ids: list[int]
    assistant_mask: list[int]
    images: tuple[str, ...]
    dropped_turns: int
    escaped: int = 0


@dataclass(frozen=True)
class Turns:
    """Tokens before images are expanded.

    Attributes:
        ids: (t,) one token for each image.
        mask: (t,) 1 = trained.
        ends: (answers,) number of tokens up to the end of each answer.
    """

    ids: list[int]
    mask: list[int]
    ends: list[int]


@dataclass(frozen=True)
class ChatEncoder:
    """Tokenises conversations through one template.

    Attributes:
        tokenizer: the language model's, with `<image>` added.
        template: how a conversation is written.
        image_token_id: id of `<image>`.
        tokens_per_image: P, how many tokens a picture takes.
    """

    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    image_token_id: int
    tokens_per_image: int

    def __post_init__(self) -> None:
        found = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        if found != IMAGE_TOKEN:
            raise ModelError(
                f"token {self.image_token_id} is {found!r}, not {IMAGE_TOKEN!r}; load the tokenizer with load_tokenizer"
            )
        # Spelt out in letters, an end token runs into the text around it and costs ten tokens an answer.
        missing = [stop for stop in self.template.stop if _is_token(stop) and stop not in self._specials]
        if missing:
            raise RecipeError(
                f"template={self.template.name} ends an answer with {missing[0]}, which this tokenizer lacks; "
                f"use the model's own template ({', '.join(self._fitting_templates())})"
            )

    def encode(self, conversation: Conversation, max_length: int | None = None) -> Encoded:
        """Token ids and mask of a whole conversation.

        Args:
            conversation: any number of turns that end with the assistant's.
            max_length: T at most; whole turns are cut from the end, never image tokens.

        Raises:
            SampleRejected: it cannot be trained on; `reason` says which rule.
            RecipeError: the template puts the start or end of an answer inside a token.
        """
        check_turns(conversation)
        placeholders = len(conversation.images)
        messages, escaped = self._escape(conversation.messages)
        turns = self._tokenize_turns(messages)
        if turns.ids.count(self.image_token_id) != placeholders:
            raise SampleRejected(
                "image_mismatch",
                f"template {self.template.name} shows {turns.ids.count(self.image_token_id)} of {placeholders} images; "
                "put images into the user's turns",
            )
        if 1 not in turns.mask:
            raise SampleRejected("no_trained_token", "no assistant turn, so nothing to train; add an answer")
        dropped = 0
        if max_length is not None and self._expanded(turns.ids) > max_length:
            kept = self._turns_that_fit(turns, max_length)
            dropped = len(turns.ends) - kept
            messages = _first_turns(messages, kept)
            turns = self._tokenize_turns(messages)
        ids, mask = self._expand(turns.ids, turns.mask)
        return Encoded(
            input_ids=ids,
            assistant_mask=mask,
            images=conversation.images[: _count_images(messages)],
            dropped_turns=dropped,
            escaped=escaped,
        )

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids for generation: everything up to where the assistant's next answer starts, images expanded.

        Raises:
            DataError: the messages do not end with the user's turn.
        """
        if not messages or messages[-1]["role"] != "user":
            raise DataError("a prompt ends with the user's turn; add a question")
        # Cut off a rendered answer instead of rendering a prompt: some tokenizers join trailing line breaks differently
        # when nothing follows, and the model would start from tokens that it never saw in training.
        escaped, _ = self._escape(messages)
        turns = self._tokenize_turns([*escaped, {"role": "assistant", "content": [text("A")]}])
        answered = turns.ends[-2] if len(turns.ends) > 1 else 0
        ids = turns.ids[: turns.mask.index(1, answered)]
        return self._expand(ids, [0] * len(ids))[0]

    def decode_pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, spaces included; joined they are the decoded whole.

        A character of several tokens stands at the last of them, the others are empty.
        """
        pieces: list[str] = []
        pending: list[int] = []
        for token in ids:
            pending.append(token)
            piece = self._decode_after_anchor(pending)
            if piece.endswith(_UNFINISHED) and len(pending) < 4:  # UTF-8 takes at most four bytes
                pieces.append("")
                continue
            pieces.append(piece)
            pending = []
        if pending:
            pieces[-1] = self._decode_after_anchor(pending)
        return pieces

    # Tokens

    @cached_property
    def _backend(self) -> Tokenizer:
        """The same tokenizer without post-processor: those of byte-level models trim spaces off the offsets."""
        backend = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        backend.post_processor = None
        backend.no_truncation()
        backend.no_padding()
        return backend

    @cached_property
    def _template_variables(self) -> dict[str, str]:
        """What `apply_chat_template` hands to a template, so that ours render alike there."""
        return {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}

    def _tokenize(self, rendered: str) -> tuple[list[int], list[Span]]:
        encoding = self._backend.encode(rendered, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _tokenize_turns(self, messages: Sequence[Message]) -> Turns:
        rendered, spans = self.template.render(messages, special_tokens=self._template_variables)
        ids, offsets = self._tokenize(rendered)
        mask = [0] * len(ids)
        ends: list[int] = []
        index = 0
        for start, end in spans:
            while index < len(ids) and offsets[index][0] < start:
                if offsets[index][1] > start:
                    raise self._straddles(rendered, offsets[index], "start")
                index += 1
            while index < len(ids) and offsets[index][0] < end:
                if offsets[index][1] > end:
                    raise self._straddles(rendered, offsets[index], "end")
                mask[index] = 1
                index += 1
            ends.append(index)
        return Turns(ids, mask, ends)

    def _straddles(self, rendered: str, token: Span, edge: str) -> RecipeError:
        return RecipeError(
            f"chat template {self.template.name}: the token {rendered[token[0] : token[1]]!r} straddles the {edge} of "
            "an answer; a space before the answer belongs inside {% generation %}, and answers should be trimmed"
        )

    def _expanded(self, ids: Sequence[int]) -> int:
        return len(ids) + ids.count(self.image_token_id) * (self.tokens_per_image - 1)

    def _expand(self, ids: Sequence[int], mask: Sequence[int]) -> tuple[list[int], list[int]]:
        expanded: list[int] = []
        expanded_mask: list[int] = []
        for token, trained in zip(ids, mask, strict=True):
            copies = self.tokens_per_image if token == self.image_token_id else 1
            expanded += [token] * copies
            expanded_mask += [trained] * copies
        return expanded, expanded_mask

    def _turns_that_fit(self, turns: Turns, max_length: int) -> int:
        """How many question-answer pairs fit into `max_length`; at least one."""
        lengths = [self._expanded(turns.ids[:end]) for end in turns.ends]
        kept = sum(length <= max_length for length in lengths)
        if kept:
            return kept
        needed = lengths[0]
        images = turns.ids[: turns.ends[0]].count(self.image_token_id) * self.tokens_per_image
        what = f"{images} image tokens"
        if images <= max_length:
            what = f"the first question and answer ({needed} tokens, {images} of them image tokens)"
        fix = 1 << (needed - 1).bit_length()
        raise SampleRejected("too_long", f"max_length={max_length} cannot hold {what}; use {fix} or more")

    @cached_property
    def _anchor(self) -> int:
        """An ordinary token: decoders may strip the space of the first token, so something has to stand before."""
        return self._backend.encode("a", add_special_tokens=False).ids[-1]

    def _decode_after_anchor(self, ids: Sequence[int]) -> str:
        def decode(tokens: list[int]) -> str:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

        return decode([self._anchor, *ids])[len(decode([self._anchor])) :]

    # Control text

    @cached_property
    def _specials(self) -> dict[str, int]:
        return special_tokens(self.tokenizer)

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Special tokens, and what ends a turn: `###` is no token, but generation stops there."""
        return control_pattern([*self._specials, IMAGE_TOKEN, *(stop for stop in self.template.stop if stop.strip())])

    def _escape(self, messages: Sequence[Message]) -> tuple[list[Message], int]:
        """Control text in the data as plain text that looks the same, and how often there was some.

        Raises:
            SampleRejected: this tokenizer turns the text into a control token all the same.
        """
        written, escaped = escape_control_text(messages, self._control)
        for item in dict.fromkeys(escaped):  # each text once, however often it holds some
            if not {*self._specials.values(), self.image_token_id}.isdisjoint(self._tokenize(item)[0]):
                shown = item[:80].replace(BREAK, "")
                raise SampleRejected("control_text", f"{shown!r} holds control text of this tokenizer; remove it")
        return written, len(escaped)

    def _fitting_templates(self) -> list[str]:
        names = [name for name in template_names() if name != PLAIN]
        stops = {name: load_chat_template(name).stop for name in names}
        return [name for name in names if all(not _is_token(s) or s in self._specials for s in stops[name])]


def _is_token(stop: str) -> bool:
    """Whether an end is meant as one token (`</s>`), not as text (`###`, a line break)."""
    return stop.startswith("<") and stop.endswith(">")


def _count_images(messages: Sequence[Message]) -> int:
    return sum(part["type"] == "image" for message in messages for part in message["content"])


def check_turns(conversation: Conversation) -> None:
    """Refuse what would train nonsense: pictures that do not match their places, an empty answer; no tokenizer needed.

    Raises:
        SampleRejected: with reason `empty_answer` or `image_mismatch`.
    """
    placeholders = _count_images(conversation.messages)
    if placeholders != len(conversation.images):
        raise SampleRejected(
            "image_mismatch",
            f"{len(conversation.images)} images but {placeholders} {IMAGE_TOKEN} placeholders; "
            f"write one {IMAGE_TOKEN} in the questions for each image",
        )
    for message in conversation.messages:
        if message["role"] != "assistant":
            continue
        if any(part["type"] == "image" for part in message["content"]):
            raise SampleRejected("image_mismatch", "an image stands in an answer; put images into the user's turns")
        if not "".join(part["text"] for part in message["content"]).strip():
            raise SampleRejected("empty_answer", "an answer is empty; write one or remove the turn")


def _first_turns(messages: Sequence[Message], count: int) -> list[Message]:
    """The messages up to and with the `count`-th answer."""
    seen = 0
    for index, message in enumerate(messages):
        seen += message["role"] == "assistant"
        if seen == count:
            return list(messages[: index + 1])
    return list(messages)
