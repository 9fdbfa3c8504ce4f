"""The pinned encodings: every template on the tokenizers of its families, every kind of conversation.

`golden_encodings.jsonl` holds ids and trained spans, and a readable form of both to review. After an intended change:
`python -m tests.data.golden` writes it anew; read the diff.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qllava.data.chat_template import load_chat_template
from qllava.data.encode import ChatEncoder, Encoded
from qllava.types import IMAGE, Conversation, Message, Role, text
from tests.data.tiny_tokenizers import MISTRAL_SPECIALS, byte_level, sentencepiece, smollm2

FILE = Path(__file__).with_name("golden_encodings.jsonl")
TOKENS_PER_IMAGE = 3

FAMILIES = {
    "smollm2": ("plain", "llava_v0", "vicuna_v1", "chatml", "llama3", "mistral"),
    "llama2": ("plain", "llava_v0", "vicuna_v1"),
    "metaspace": ("plain", "vicuna_v1", "mistral"),
    "byte_level": ("plain", "llava_v0", "chatml", "llama3"),
}


def build_tokenizers(cache: Path) -> dict[str, Any]:
    return {
        "smollm2": smollm2(cache),
        "llama2": sentencepiece(legacy=True),
        "metaspace": sentencepiece(legacy=False, specials=MISTRAL_SPECIALS),
        "byte_level": byte_level(),
    }


def build_encoder(tokenizer: Any, template: str, tokens_per_image: int = TOKENS_PER_IMAGE) -> ChatEncoder:
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    return ChatEncoder(tokenizer, load_chat_template(template), image_token_id, tokens_per_image)


def say(role: Role, *parts: str | None) -> Message:
    """A message; None stands for the picture."""
    return {"role": role, "content": [IMAGE if part is None else text(part) for part in parts]}


def conversation(*messages: Message) -> Conversation:
    images = sum(part["type"] == "image" for message in messages for part in message["content"])
    return Conversation("sample", tuple(f"{index}.jpg" for index in range(images)), messages)


CASES: dict[str, Conversation] = {
    "single": conversation(say("user", None, "What is this?"), say("assistant", "A cat.")),
    "multi_turn": conversation(
        say("user", None, "What is this?"),
        say("assistant", "A cat."),
        say("user", "Why?"),
        say("assistant", "It is."),
    ),
    "system": conversation(say("system", "Be brief."), say("user", None, "What is this?"), say("assistant", "A cat.")),
    "text_only": conversation(say("user", "Why?"), say("assistant", "It is.")),
    "image_in_the_middle": conversation(
        say("user", "What is", None, "this?"), say("assistant", " A cat.\n"), say("user", "Why?"), say("assistant", "X")
    ),
    "control_text": conversation(
        say("user", None, "Say <|im_end|></s><image> [INST]"),
        say("assistant", "<|im_end|> </s> <image> <|eot_id|> ### ####"),
    ),
    "unicode": conversation(say("user", None, "Où, 猫?"), say("assistant", "Café 😀 שלום")),
}


def show(encoder: ChatEncoder, encoded: Encoded) -> str:
    """Tokens apart by `|`, trained ones between [ and ]."""
    pieces = encoder.decode_pieces(encoded.input_ids)
    shown, before = "", 0
    for piece, mask in zip(pieces, encoded.assistant_mask, strict=True):
        shown += {(0, 1): "[", (1, 0): "]"}.get((before, mask), "|") + piece
        before = mask
    return (shown + ("]" if before else "")).removeprefix("|")


def trained_spans(mask: list[int]) -> list[list[int]]:
    padded = [0, *mask, 0]
    edges = [index for index in range(len(mask) + 1) if padded[index] != padded[index + 1]]
    return [list(pair) for pair in zip(edges[::2], edges[1::2], strict=True)]


def entries(tokenizers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for family, templates in FAMILIES.items():
        for template in templates:
            encoder = build_encoder(tokenizers[family], template)
            for case, sample in CASES.items():
                encoded = encoder.encode(sample)
                yield {
                    "tokenizer": family,
                    "template": template,
                    "case": case,
                    "shown": show(encoder, encoded),
                    "input_ids": encoded.input_ids,
                    "trained": trained_spans(encoded.assistant_mask),
                    "escaped": encoded.escaped,
                }


if __name__ == "__main__":
    folder = Path(".pytest_cache/d/smollm2")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries(build_tokenizers(folder))]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
