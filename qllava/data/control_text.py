"""Control text in people's data (`<image>`, `<|im_end|>`, `</s>`) is text, never control.

A zero width space after its first character keeps it from becoming a special token or ending a turn, and a reader sees
the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerFast

from qllava.types import Message, Part, text

# Zero width space; no tokenizer in use joins over it.
BREAK = "\u200b"


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Text to id of the tokenizer's special tokens."""
    return {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def control_pattern(control_texts: Iterable[str]) -> re.Pattern[str]:
    """Matches the first character of every control text, so that overlapping ones (`####` holds `###` twice) are found.

    A control text of one character cannot be split and is left out.
    """
    longer = sorted({item for item in control_texts if len(item) > 1}, key=lambda item: (-len(item), item))
    return re.compile("|".join(f"{re.escape(item[0])}(?={re.escape(item[1:])})" for item in longer))


def escape_control_text(messages: Sequence[Message], pattern: re.Pattern[str]) -> tuple[list[Message], list[str]]:
    """The messages with every control text split, and the (new) texts that had some, once for each occurrence.

    Neighbouring texts are joined first, as templates join them: `<|im_` and `end|>` are harmless only apart.
    """
    escaped: list[str] = []
    result: list[Message] = []
    for message in messages:
        parts: list[Part] = []
        for part in _joined(message["content"]):
            if part["type"] == "image":
                parts.append(part)
                continue
            written, count = pattern.subn(rf"\g<0>{BREAK}", part["text"])
            escaped += [written] * count
            parts.append(text(written))
        result.append({"role": message["role"], "content": parts})
    return result, escaped


def _joined(parts: Sequence[Part]) -> list[Part]:
    result: list[Part] = []
    for part in parts:
        if result and part["type"] == result[-1]["type"] == "text":
            result[-1] = text(result[-1]["text"] + part["text"])
        else:
            result.append(part)
    return result
