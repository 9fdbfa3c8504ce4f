"""The tokenizer of a language model, with an `<image>` token that disturbs no other."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import cast

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qllava.errors import ModelError
from qllava.model.embedded import resolve_model

# What transformers raises for weights or a tokenizer that are missing, damaged, or want code of their own to be run;
# a pickle that holds more than tensors is an UnpicklingError: weights are read with `weights_only`.
LOAD_ERRORS = (OSError, ValueError, UnpicklingError, SafetensorError)
IMAGE_TOKEN = "<image>"  # noqa: S105 - a token of text, not a secret


def load_tokenizer(language_model: str) -> tuple[PreTrainedTokenizerFast, int]:
    """The tokenizer of a language model and the id of its image token.

    A model that lacks `<image>` gets one at the end of its vocabulary: ids of all other tokens stay as they are. Where
    the embedding has padded rows (Qwen2.5), the new id is one of them; else `add_image_row` in `model/build.py` grows
    it.

    Raises:
        ModelError: the model is not there, or has no fast tokenizer (labels need character offsets).
    """
    folder = resolve_model(language_model)
    try:
        tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    except LOAD_ERRORS as error:
        raise ModelError(not_found(language_model, error)) from error
    if not tokenizer.is_fast:
        raise ModelError(f"{language_model} has no fast tokenizer, and labels need its character offsets; use another")
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, int(cast(int, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)))


def not_found(reference: str, error: Exception) -> str:
    """One line for a model that could not be read: what, why in short, the fix."""
    if isinstance(error, UnpicklingError):
        return (
            f"model {reference} is refused: its weights are a pickle that holds more than tensors and could run code; "
            "use a version with safetensors"
        )
    if "contains custom code" in str(error):
        return (
            f"model {reference} is refused: it wants code of its own to be run, which qllava never does; "
            "use a model of a family that transformers ships"
        )
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return (
        f"model {reference} cannot be loaded ({reason}); "
        "check the name, log in with `hf auth login` if it is gated, or give a local folder"
    )
