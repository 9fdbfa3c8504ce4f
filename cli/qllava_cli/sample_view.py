"""Samples as the model sees them, with the trained tokens coloured: in `data show`, and before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from qllava_cli.console import console, note, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from qllava.data.encode import ChatEncoder, Encoded
    from qllava.recipe import Recipe
    from qllava.types import Conversation, Stage

# Characters of a sample that `train` shows: enough for what stands around the first answer.
_FIRST = 700
_TRAINED = "bold green underline"
# A stranger's text may hold signs that steer the terminal: they are shown as pictures of themselves.
_VISIBLE = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | dict.fromkeys(
    (0x7F, *range(0x80, 0xA0)), "\ufffd"
)


def build_encoder(recipe: Recipe, stage: Stage) -> ChatEncoder:
    """The encoder of a recipe's stage."""
    from qllava.data.chat_template import load_chat_template, stage_template  # noqa: PLC0415
    from qllava.data.encode import ChatEncoder  # noqa: PLC0415
    from qllava.model.sizes import tokens_per_image  # noqa: PLC0415
    from qllava.model.tokenizer import load_tokenizer  # noqa: PLC0415

    template = load_chat_template(stage_template(recipe.template, recipe.align_template, stage))
    tokenizer, image_token_id = load_tokenizer(recipe.model.language_model)
    return ChatEncoder(tokenizer, template, image_token_id, tokens_per_image(recipe.model))


def encode_sample(encoder: ChatEncoder, sample: Conversation, stage: Stage, max_length: int) -> Encoded:
    """A sample as the stage trains it; raises `SampleRejected` where it does not."""
    from qllava.data.encode import SampleRejected  # noqa: PLC0415

    if stage == "align" and not sample.images:
        raise SampleRejected("text_only", "stage 1 leaves out samples without an image; they belong in stage 2")
    return encoder.encode(sample, max_length)


def as_texts(encoder: ChatEncoder, samples: Iterable[Conversation], stage: Stage, max_length: int) -> Iterator[Text]:
    """Two texts a sample: a line about it, and the sample; or one, why it is rejected."""
    from rich.text import Text  # noqa: PLC0415

    from qllava.data.encode import SampleRejected  # noqa: PLC0415

    for sample in samples:
        text = Text(f"\n{one_line(sample.id)}", style="bold")
        text.append(f"  {one_line(', '.join(sample.images)) or 'no image'}", style="not bold")
        try:
            encoded = encode_sample(encoder, sample, stage, max_length)
        except SampleRejected as error:
            yield text.append(f"  rejected ({error.reason}): {error}\n", style="not bold red")
            continue
        trained = sum(encoded.assistant_mask)
        text.append(f"  {len(encoded.input_ids)} tokens, {trained} trained", style="not bold")
        if encoded.dropped_turns:
            text.append(f", {encoded.dropped_turns} turns cut to fit {max_length}", style="not bold")
        yield text.append("\n")
        pieces = encoder.decode_pieces(encoded.input_ids)
        body = Text()
        for piece, mask, copies in _runs(encoded.input_ids, pieces, encoded.assistant_mask, encoder.image_token_id):
            shown = f"{piece} x{copies}" if copies > 1 else piece
            body.append(shown.translate(_VISIBLE), style=_TRAINED if mask else "")
        yield body


def _runs(ids: list[int], pieces: list[str], mask: list[int], image_token_id: int) -> Iterator[tuple[str, int, int]]:
    """Stretches of tokens as (text, trained, copies): equally trained text joined, a run of image tokens counted."""
    index = 0
    while index < len(ids):
        stop = index + 1
        is_image = ids[index] == image_token_id
        while stop < len(ids) and (ids[stop] == image_token_id) == is_image and mask[stop] == mask[index]:
            stop += 1
        if is_image:
            yield pieces[index], mask[index], stop - index
        else:
            yield "".join(pieces[index:stop]), mask[index], 1
        index = stop


def print_text(text: Text, console: Console) -> None:
    """Styled on a terminal; elsewhere trained stretches stand between [[ and ]]."""
    if console.color_system is not None:
        console.print(text, soft_wrap=True)
        return
    plain: list[str] = []
    at = 0
    for span in text.spans:
        if "underline" in str(span.style):
            plain += [text.plain[at : span.start], "[[", text.plain[span.start : span.end], "]]"]
            at = span.end
    console.out("".join([*plain, text.plain[at:]]).removesuffix("\n"), highlight=False)


def print_first(encoder: ChatEncoder, samples: Sequence[Conversation], stage: Stage, max_length: int) -> None:
    """What the first step will train on, on stderr and cut to a screen: the last chance to see nonsense."""
    note(f"the first {len(samples)} samples; what is trained is underlined (in [[ ]] without colours)")
    for text in as_texts(encoder, samples, stage, max_length):
        shown = text[:_FIRST]
        if len(text) > _FIRST:
            shown.append(f" ... {len(text) - _FIRST:,} more characters")
        print_text(shown, console())
    console().print()
