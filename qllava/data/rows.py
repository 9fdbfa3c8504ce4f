"""One row of a data file -> one Conversation: LLaVA's JSON and Hugging Face `messages`.

LLaVA's schema is its README's (`id`, `image`, `conversations: [{from, value}]`); other keys are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from qllava.data.chat_template import IMAGE_TOKEN
from qllava.errors import DataError
from qllava.types import IMAGE, Conversation, Message, Part, Role, text

ImagePosition = Literal["first", "as_written"]

_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}
_SHOWN = 80
_HF_ROLES: tuple[Role, ...] = ("user", "assistant", "system")


class RowRejected(DataError):  # noqa: N818 - it is an outcome that callers count
    """A row that is no sample.

    Attributes:
        reason: schema, roles, no_answer, not_text or not_json; counts are kept by it.
    """

    def __init__(self, message: str, reason: str = "schema") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[RowRejected], tuple[str, str]]:
        """Both arguments, so that it survives the way back from a data worker."""
        return type(self), (str(self), self.reason)


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A conversation, and how many turns of its row were left out because their other half is missing."""

    conversation: Conversation
    half_turns: int


def parse_row(row: object, where: str, index: int, image_position: ImagePosition = "first") -> ParsedRow:
    """A conversation from a decoded row of either schema.

    Args:
        row: the decoded JSON object or table row.
        where: names the row in errors, e.g. `data/instruct.json, row 3`.
        index: stands in for a missing id.
        image_position: `first` moves the picture of a turn that has one before its text, as LLaVA's released code
            does (`preprocess_multimodal`); `as_written` leaves it, as the paper's random placement needs.

    Raises:
        RowRejected: what is wrong with the row, where, and the fix.
    """
    if not isinstance(row, Mapping):
        raise RowRejected(f"{where} is {_kind(row)}, not an object with `conversations`; {_SCHEMA}")
    identity = str(row.get("id", index))
    if "id" in row:
        where = f"{where} (id {shown(identity)})"
    images = _images(row, where)
    if "conversations" in row:
        messages = _llava_messages(row["conversations"], len(images), where)
    elif "messages" in row:
        messages, named = _hf_messages(row["messages"], len(images), where)
        if named and images:
            raise RowRejected(f"{where} names images both in `images` and inside `messages`; keep one of them")
        images = images or named
    else:
        keys = shown(", ".join(map(str, list(row)[:6])) or "none")
        raise RowRejected(f"{where} has neither `conversations` nor `messages` (keys: {keys}); {_SCHEMA}")
    _check_text(identity, images, messages, where)
    whole = _whole_turns(messages, where)
    half_turns = len(messages) - len(whole)
    if image_position == "first":
        whole = [_image_first(message) for message in whole]
    kind = row.get("kind")
    conversation = Conversation(
        id=identity, images=images, messages=tuple(whole), kind=kind if isinstance(kind, str) else None
    )
    return ParsedRow(conversation, half_turns)


def shown(text: str) -> str:
    """A stranger's text for an error: one line, short, printable anywhere."""
    line = " ".join(text.split())
    return (line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...").encode("utf-8", "backslashreplace").decode()


_SCHEMA = (
    'each sample is {"id": ..., "image": "a.jpg", "conversations": [{"from": "human", "value": ...}, '
    '{"from": "gpt", "value": ...}]}'
)


def _images(row: Mapping[Any, Any], where: str) -> tuple[str, ...]:
    for key in ("image", "images"):
        value = row.get(key)
        if value is None or value == "":
            continue
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return tuple(_image_name(item, key, where) for item in items)
    return ()


def _image_name(item: object, key: str, where: str) -> str:
    if isinstance(item, str) and item:
        return item
    if isinstance(item, Mapping):  # how `datasets` shows an undecoded Image
        if item.get("bytes") is not None:
            raise RowRejected(
                f"{where}: `{key}` holds the picture itself, not its name; "
                "save the pictures as files, put their names there, and give the folder with --images"
            )
        if isinstance(item.get("path"), str):
            return cast(str, item["path"])
    raise RowRejected(f"{where}: `{key}` holds {_kind(item)}; write the file name of the picture")


def _llava_messages(turns: object, images: int, where: str) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise RowRejected(f"{where}: `conversations` is {_kind(turns)}; write at least one human and one gpt turn")
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        speaker = turn.get("from") if isinstance(turn, Mapping) else None
        value = turn.get("value") if isinstance(turn, Mapping) else None
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise RowRejected(
                f"{where}, turn {number}: unknown `from` {shown(repr(speaker))}; use human, gpt or system", "roles"
            )
        if not isinstance(value, str):
            raise RowRejected(f"{where}, turn {number}: `value` is {_kind(value)}; write a text")
        role = _ROLES[speaker]
        parts = _split_placeholders(value, images) if role == "user" else [text(value)]
        images -= sum(part["type"] == "image" for part in parts)
        messages.append({"role": role, "content": parts})
    return messages


def _hf_messages(turns: object, images: int, where: str) -> tuple[list[Message], tuple[str, ...]]:
    """Messages, and the images that structured parts name themselves."""
    if not isinstance(turns, list) or not turns:
        raise RowRejected(f"{where}: `messages` is {_kind(turns)}; write at least one user and one assistant turn")
    messages: list[Message] = []
    named: list[str] = []
    for number, turn in enumerate(turns):
        place = f"{where}, turn {number}"
        role = turn.get("role") if isinstance(turn, Mapping) else None
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if role not in _HF_ROLES:
            raise RowRejected(f"{place}: unknown `role` {shown(repr(role))}; use user, assistant or system", "roles")
        if isinstance(content, str):
            parts = _split_placeholders(content, images) if role == "user" else [text(content)]
            images -= sum(part["type"] == "image" for part in parts)
        elif isinstance(content, list):
            parts = [_hf_part(part, place, named) for part in content]
        else:
            raise RowRejected(f"{place}: `content` is {_kind(content)}; write a text or a list of parts")
        messages.append({"role": role, "content": parts})
    return messages, tuple(named)


def _hf_part(part: object, place: str, named: list[str]) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind == "image":
        item = part.get("image") or part.get("path")
        if item is not None:
            named.append(_image_name(item, "image", place))
        return IMAGE
    if isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
        return text(cast(str, part["text"]))
    raise RowRejected(f"{place}: a part of type {shown(repr(kind))} cannot be used; use `text` and `image` parts")


def _split_placeholders(value: str, limit: int) -> list[Part]:
    """`<image>` is structure only as often as there are images left; any other is the user's text."""
    if limit <= 0:
        return [text(value)]
    parts: list[Part] = []
    for piece in re.split(f"({re.escape(IMAGE_TOKEN)})", value, maxsplit=limit):
        if piece == IMAGE_TOKEN and sum(part["type"] == "image" for part in parts) < limit:
            parts.append(IMAGE)
        elif piece:
            parts.append(text(piece))
    return parts


def _check_text(identity: str, images: Sequence[str], messages: Sequence[Message], where: str) -> None:
    """Refuse half characters (`\\ud800` without its pair): JSON can write them, no tokenizer or file name can."""
    words = [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]
    for piece in (identity, *images, *words):
        try:
            piece.encode("utf-8")
        except UnicodeEncodeError as error:
            half = piece[error.start]
            raise RowRejected(
                f"{where} holds half a character ({half!a}); write the text again as UTF-8", "not_text"
            ) from None


def _whole_turns(messages: list[Message], where: str) -> list[Message]:
    """Question-answer pairs after an optional system turn.

    A leading answer and a trailing question are left out (and counted), as LLaVA's code does or does without: the
    ShareGPT part of its 665K mix has such rows, and nothing in them could be trained.
    """
    system = messages[:1] if messages[0]["role"] == "system" else []
    first = len(system)
    first += messages[first : first + 1] != [] and messages[first]["role"] == "assistant"
    rest = messages[first:]
    for number, message in enumerate(rest):
        wanted: Role = "user" if number % 2 == 0 else "assistant"
        if message["role"] != wanted:
            raise RowRejected(
                f"{where}, turn {first + number}: expected {wanted}, found {message['role']}; "
                "turns alternate, human first, after an optional system turn",
                "roles",
            )
    if rest and rest[-1]["role"] == "user":
        rest = rest[:-1]
    if not rest:
        raise RowRejected(
            f"{where} has no question with an answer; write at least one human and one gpt turn", "no_answer"
        )
    return system + rest


def _image_first(message: Message) -> Message:
    parts = message["content"]
    if sum(part["type"] == "image" for part in parts) != 1 or parts[0]["type"] == "image":
        return message
    # Joined by a line break where the picture stood between two texts, as the templates would have written it.
    words = "\n".join(part["text"].strip() for part in parts if part["type"] == "text" and part["text"].strip())
    return {"role": message["role"], "content": [IMAGE, text(words)] if words else [IMAGE]}


def _kind(value: object) -> str:
    names = {type(None): "missing", str: "a text", list: "a list", dict: "an object", bool: "a yes/no"}
    if value in ([], {}, ""):
        return "empty"
    return names.get(type(value), f"a {type(value).__name__}")
