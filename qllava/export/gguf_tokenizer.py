"""A tokenizer as llama.cpp reads it: byte-level BPE (`gpt2`) and SentencePiece-style BPE (`llama`).

llama.cpp splits text before merging by rules that it knows by name; a tokenizer whose rules have no such name is
refused, since every prompt would become other tokens than the model was trained with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerFast

from qllava.errors import ModelError

# What tells the splitting rules of the families we ship recipes for apart, in the regex of their tokenizer.json.
_GROUPS_OF_THREE = r"\p{N}{1,3}"  # Llama 3: digits in threes
_SINGLE_DIGITS = r"\p{N}|"  # Qwen2: digits one by one
_GPT2_REGEX = "gpt-2"


@dataclass(frozen=True)
class Vocabulary:
    """`kind` is llama.cpp's tokenizer model, `rules` its name for the splitting; tokens in the order of ids."""

    kind: str
    rules: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]


def read_vocabulary(tokenizer: PreTrainedTokenizerFast, rows: int) -> Vocabulary:
    """All that llama.cpp needs of a tokenizer, padded to the `rows` of the embedding.

    Raises:
        ModelError: a model or splitting rules that llama.cpp has no name for.
    """
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model.get("type") != "BPE":
        raise ModelError(f"the tokenizer is a {model.get('type')} model; GGUF export knows BPE ones")
    pieces = bool(model.get("byte_fallback"))
    tokens, types = _tokens(tokenizer, rows, bytes_as_pieces=pieces)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if not pieces:
        return Vocabulary("gpt2", splitting_rules(content), tokens, types, [], merges)
    _check_order(merges, tokenizer.get_vocab())
    # SentencePiece merges by score, which falls with the id: ids are given in the order of merging.
    return Vocabulary("llama", "default", tokens, types, [-float(index) for index in range(rows)], [])


def write_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast, end: int) -> None:
    """Tokens, merges or scores, and the special ids; `end` is the id that ends an answer."""
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.rules)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    for identity, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if isinstance(identity, int):
            add(identity)
    writer.add_eos_token_id(end)
    writer.add_eot_token_id(end)
    writer.add_add_eos_token(False)
    # Byte-level tokenizers write no space before the first word; Llama's and Mistral's do.
    writer.add_add_space_prefix(vocabulary.kind == "llama")


def splitting_rules(content: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits text, from its tokenizer.json.

    Raises:
        ModelError: none is known.
    """
    steps = content.get("pre_tokenizer") or {}
    listed = steps.get("pretokenizers", [steps])
    patterns = [step["pattern"].get("Regex", "") for step in listed if step.get("type") == "Split"]
    digits = any(step.get("type") == "Digits" and step.get("individual_digits") for step in listed)
    own_regex = any(step.get("type") == "ByteLevel" and step.get("use_regex", True) for step in listed)
    if len(patterns) == 1 and _GROUPS_OF_THREE in patterns[0]:
        return "llama-bpe"
    if len(patterns) == 1 and _SINGLE_DIGITS in patterns[0]:
        return "qwen2"
    if not patterns and own_regex:
        return "smollm" if digits else _GPT2_REGEX
    raise ModelError(
        "llama.cpp has no known name for how this tokenizer splits text; export with --to hf, or with --llama-cpp DIR, "
        "whose own converter may know it"
    )


def _tokens(tokenizer: PreTrainedTokenizerFast, rows: int, *, bytes_as_pieces: bool) -> tuple[list[str], list[int]]:
    """Text and type of every id; rows that are no token get a name of their own."""
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens: list[str] = []
    types: list[int] = []
    for index in range(rows):
        token = by_id.get(index)
        if token is None:
            tokens.append(f"[PAD{index}]")
            types.append(TokenType.UNUSED)
            continue
        tokens.append(token)
        if index in added:
            types.append(TokenType.CONTROL if added[index].special else TokenType.USER_DEFINED)
        elif bytes_as_pieces and index == tokenizer.unk_token_id:
            types.append(TokenType.UNKNOWN)
        elif bytes_as_pieces and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    return tokens, types


def _check_order(merges: list[str], vocabulary: dict[str, int]) -> None:
    """Merging by falling score must be merging by rank.

    Raises:
        ModelError: ids are not in the order of the merges.
    """
    made = list(dict.fromkeys(vocabulary[merge.replace(" ", "", 1)] for merge in merges))
    if any(later < earlier for earlier, later in pairwise(made)):
        raise ModelError("the tokenizer's ids are not in the order of its merges, which GGUF scores need")
