from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from qllava.data.chat_template import ChatTemplate
from qllava.data.control_text import BREAK
from qllava.data.encode import ChatEncoder, SampleRejected
from qllava.errors import DataError, ModelError, RecipeError
from qllava.types import Conversation
from tests.data.golden import CASES, FAMILIES, FILE, build_encoder, conversation, entries, say

GOLDEN = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
PAIRS = [(family, name) for family, names in FAMILIES.items() for name in names]
# What a turn trains, by template: before and after the answer's own text.
TRAINED = {
    "plain": ("", "\n"),
    "llava_v0": (" ", "###"),
    "vicuna_v1": (" ", "</s>"),
    "chatml": ("", "<|im_end|>"),
    "llama3": ("", "<|eot_id|>"),
    "mistral": (" ", "</s>"),
}
CONTROL = ["<image>", "<|im_end|>", "</s>", "<s>", "[INST]", "<|eot_id|>", "<|im_start|>", "###", "<image", "##"]


@pytest.fixture(scope="module")
def encoders(tokenizers: dict[str, Any]) -> dict[tuple[str, str], ChatEncoder]:
    return {(family, name): build_encoder(tokenizers[family], name) for family, name in PAIRS}


def test_every_pinned_encoding(tokenizers: dict[str, Any]) -> None:
    found = list(entries(tokenizers))
    assert len(found) == len(GOLDEN) == sum(map(len, FAMILIES.values())) * len(CASES)
    for entry, pinned in zip(found, GOLDEN, strict=True):
        assert entry == pinned


def test_one_pinned_encoding_by_hand(tokenizers: dict[str, Any]) -> None:
    """The smallest of them spelt out: SmolLM2's ids of ChatML."""
    tokenizer = tokenizers["smollm2"]
    encoded = build_encoder(tokenizer, "chatml").encode(CASES["single"])
    start, end, newline, image = 1, 2, 198, 49152
    system = [start, 9690, newline, 2683, 359, 253, 5356, 11173, 30, end, newline]
    user = [start, 4093, newline, image, image, image, newline, 1780, 314, 451, 47, end, newline]
    answer = [49, 2644, 30, end]
    assert encoded.input_ids == [*system, *user, start, 520, 9531, newline, *answer]
    assert encoded.assistant_mask == [0] * (len(encoded.input_ids) - 4) + [1] * 4
    assert encoded.images == ("0.jpg",)
    assert (encoded.dropped_turns, encoded.escaped) == (0, 0)


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_bos_stands_once_and_first(family: str, name: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    ids = build_encoder(tokenizer, name).encode(CASES["multi_turn"]).input_ids
    if name != "chatml":  # ChatML has none; SmolLM2 calls <|im_start|> its own
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(("family", "name"), PAIRS)
@pytest.mark.parametrize("case", CASES)
def test_a_prompt_is_what_training_saw_before_the_answer(
    family: str, name: str, case: str, encoders: dict[tuple[str, str], ChatEncoder]
) -> None:
    encoder = encoders[family, name]
    sample = CASES[case]
    whole = encoder.encode(sample)
    for index, message in enumerate(sample.messages):
        if message["role"] != "assistant":
            continue
        prompt = encoder.encode_prompt(sample.messages[:index])
        assert whole.input_ids[: len(prompt)] == prompt
        assert whole.assistant_mask[len(prompt)] == 1
        until = sample.messages[: index + 1]
        images = sum(part["type"] == "image" for turn in until for part in turn["content"])
        part = encoder.encode(Conversation("part", sample.images[:images], until))
        assert whole.input_ids[: len(part.input_ids)] == part.input_ids
        answer = part.input_ids[len(prompt) :]
        assert encoder.template.stop[0] in "".join(encoder.decode_pieces(answer))


def _texts(family: str) -> st.SearchStrategy[str]:
    # Lone surrogates are no text; SentencePiece writes U+2581 for a space, so that comes back as one; SmolLM2 has no
    # tokens for some bytes that only control, private and unassigned characters need, and loses them.
    characters = st.characters(
        exclude_categories=["Cs", "Cc", "Co", "Cn"] if family == "smollm2" else ["Cs"],
        exclude_characters="\u2581",
    )
    pieces = st.one_of(st.text(characters, min_size=1, max_size=12), st.sampled_from([*CONTROL, "\n", "\t", "  "]))
    return st.lists(pieces, min_size=1, max_size=5).map("".join).filter(lambda value: bool(value.strip()))


@pytest.mark.parametrize(("family", "name"), [pair for pair in PAIRS if pair != ("llama2", "plain")])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_exactly_the_answers_and_their_ends_are_trained(
    family: str, name: str, data: st.DataObject, encoders: dict[tuple[str, str], ChatEncoder]
) -> None:
    texts = _texts(family)
    turns = data.draw(st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
    messages = [
        message
        for index, (question, answer) in enumerate(turns)
        for message in (say("user", *([None] if index == 0 else []), question), say("assistant", answer))
    ]
    encoder = encoders[family, name]
    encoded = encoder.encode(conversation(*messages))
    pieces = encoder.decode_pieces(encoded.input_ids)
    trained = "".join(piece for piece, mask in zip(pieces, encoded.assistant_mask, strict=True) if mask)
    before, after = TRAINED[name]
    expected = "".join(before + answer.strip() + after for _, answer in turns)
    assert trained.replace(BREAK, "") == expected.replace(BREAK, "")
    # As many special tokens as the same conversation has with harmless words.
    special = set(encoder.tokenizer.added_tokens_decoder)
    harmless = [say(m["role"], *([None] if index == 0 else []), "ok") for index, m in enumerate(messages)]
    plain = encoder.encode(conversation(*harmless))
    assert [i for i in encoded.input_ids if i in special] == [i for i in plain.input_ids if i in special]
    # And every token comes back as text.
    assert "".join(pieces).replace(BREAK, "").count("<image>") >= encoder.tokens_per_image


def test_control_text_is_escaped_even_where_it_overlaps(tokenizers: dict[str, Any]) -> None:
    encoder = build_encoder(tokenizers["smollm2"], "llava_v0")
    encoded = encoder.encode(conversation(say("user", "##### <image><image>"), say("assistant", "#### ok")))
    text = "".join(encoder.decode_pieces(encoded.input_ids))
    assert f"#{BREAK}#{BREAK}#{BREAK}## <{BREAK}image><{BREAK}image>###Assistant: #{BREAK}#{BREAK}## ok###" in text
    assert encoded.escaped == 7
    assert encoder.image_token_id not in encoded.input_ids


class _Counting(ChatEncoder):
    """Remembers how often it tokenised."""

    seen: list[str] = []  # noqa: RUF012

    def _tokenize(self, rendered: str) -> tuple[list[int], list[tuple[int, int]]]:
        self.seen.append(rendered)
        return super()._tokenize(rendered)


def test_a_text_full_of_control_text_is_looked_at_once(tokenizers: dict[str, Any]) -> None:
    """Once for each occurrence, a page of them took minutes: anybody could keep a server busy with one request."""
    plain = build_encoder(tokenizers["smollm2"], "chatml")
    encoder = _Counting(plain.tokenizer, plain.template, plain.image_token_id, plain.tokens_per_image)
    question = say("user", "<image><|im_end|>" * 500)
    assert encoder.encode_prompt([question]) == plain.encode_prompt([question])
    assert len(encoder.seen) == 2  # the text, and the conversation


def test_control_text_in_pieces_is_escaped_too(tokenizers: dict[str, Any]) -> None:
    encoder = build_encoder(tokenizers["smollm2"], "chatml")
    whole = encoder.encode(conversation(say("user", "a <|im_end|> b"), say("assistant", "<|im_end|>")))
    pieces = encoder.encode(conversation(say("user", "a <|im_", "end", "|> b"), say("assistant", "<", "|im_end|>")))
    assert pieces == whole
    assert pieces.escaped == 2


def test_control_text_that_no_escape_stops_is_rejected(tokenizers: dict[str, Any]) -> None:
    # A tokenizer that drops the zero width space before it looks for this token.
    backend = Tokenizer.from_str(tokenizers["byte_level"].backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace(BREAK, "")
    stripping = PreTrainedTokenizerFast(tokenizer_object=backend)
    stripping.add_tokens([AddedToken("<tool>", special=True, normalized=True)], special_tokens=True)
    encoder = build_encoder(stripping, "chatml")
    with pytest.raises(SampleRejected) as error:
        encoder.encode(conversation(say("user", "Hi"), say("assistant", "a <tool>")))
    assert error.value.reason == "control_text"
    assert str(error.value) == "'a <tool>' holds control text of this tokenizer; remove it"


@pytest.mark.parametrize(
    ("sample", "reason", "message"),
    [
        (
            Conversation("a", ("a.jpg",), (say("user", "Hi"), say("assistant", "Yo"))),
            "image_mismatch",
            "1 images but 0 <image> placeholders; write one <image> in the questions for each image",
        ),
        (
            Conversation("a", (), (say("user", None, "Hi"), say("assistant", "Yo"))),
            "image_mismatch",
            "0 images but 1 <image> placeholders; write one <image> in the questions for each image",
        ),
        (
            Conversation("a", ("a.jpg",), (say("user", "Hi"), say("assistant", None, "Yo"))),
            "image_mismatch",
            "an image stands in an answer; put images into the user's turns",
        ),
        (
            Conversation("a", (), (say("user", "Hi"),)),
            "no_trained_token",
            "no assistant turn, so nothing to train; add an answer",
        ),
        (
            Conversation("a", (), (say("user", "Hi"), say("assistant", " \n"))),
            "empty_answer",
            "an answer is empty; write one or remove the turn",
        ),
    ],
)
def test_samples_that_cannot_be_trained_on(
    sample: Conversation, reason: str, message: str, tokenizers: dict[str, Any]
) -> None:
    with pytest.raises(SampleRejected) as error:
        build_encoder(tokenizers["smollm2"], "chatml").encode(sample)
    assert (error.value.reason, str(error.value)) == (reason, message)
    assert isinstance(error.value, DataError)
    again = pickle.loads(pickle.dumps(error.value))  # noqa: S301 - as it leaves a data worker
    assert (again.reason, str(again)) == (reason, message)


def test_a_long_conversation_is_cut_at_a_turn(tokenizers: dict[str, Any]) -> None:
    encoder = build_encoder(tokenizers["smollm2"], "chatml", tokens_per_image=16)
    sample = conversation(
        say("user", None, "What is this?"),
        say("assistant", "A cat."),
        say("user", "Why?"),
        say("assistant", "It is."),
        say("user", None, "And this?"),
        say("assistant", "A dog."),
    )
    whole = encoder.encode(sample)
    two = encoder.encode(conversation(*sample.messages[:4]))
    one = encoder.encode(conversation(*sample.messages[:2]))
    assert encoder.encode(sample, len(whole.input_ids)) == whole
    for length, kept, dropped in (
        (len(whole.input_ids) - 1, two, 1),
        (len(two.input_ids), two, 1),
        (len(two.input_ids) - 1, one, 2),
        (len(one.input_ids), one, 2),
    ):
        cut = encoder.encode(sample, length)
        assert (cut.input_ids, cut.assistant_mask) == (kept.input_ids, kept.assistant_mask)
        assert cut.dropped_turns == dropped
        assert cut.images == ("0.jpg",)
        assert cut.input_ids.count(encoder.image_token_id) == 16
    with pytest.raises(SampleRejected) as error:
        encoder.encode(sample, len(one.input_ids) - 1)
    assert error.value.reason == "too_long"
    assert str(error.value) == (
        "max_length=44 cannot hold the first question and answer (45 tokens, 16 of them image tokens); use 64 or more"
    )


def test_image_tokens_are_never_cut(tokenizers: dict[str, Any]) -> None:
    encoder = build_encoder(tokenizers["smollm2"], "vicuna_v1", tokens_per_image=576)
    with pytest.raises(SampleRejected) as error:
        encoder.encode(CASES["single"], 512)
    assert error.value.reason == "too_long"
    assert str(error.value) == "max_length=512 cannot hold 576 image tokens; use 1024 or more"


@pytest.mark.parametrize(
    ("source", "edge"),
    [
        ("USER{% generation %}{{ messages[1].content[0].text }}<|im_end|>{% endgeneration %}", "start"),
        ("{% generation %}{{ messages[1].content[0].text }}{% endgeneration %}tant", "end"),
    ],
)
def test_a_template_that_cuts_tokens_is_refused(source: str, edge: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["smollm2"]
    encoder = ChatEncoder(
        tokenizer, ChatTemplate("own", source, ()), tokenizer.convert_tokens_to_ids("<image>"), tokens_per_image=1
    )
    answer = "S" if edge == "start" else "is"
    with pytest.raises(RecipeError, match=f"chat template own: the token '.*' straddles the {edge} of an answer; "):
        encoder.encode(conversation(say("user", "Hi"), say("assistant", answer)))


def test_a_template_of_another_family_is_refused(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as error:
        build_encoder(tokenizers["llama2"], "chatml")
    assert str(error.value) == (
        "template=chatml ends an answer with <|im_end|>, which this tokenizer lacks; "
        "use the model's own template (llava_v0, mistral, vicuna_v1)"
    )


def test_the_image_token_has_to_be_there(tokenizers: dict[str, Any]) -> None:
    encoder = build_encoder(tokenizers["smollm2"], "chatml")
    with pytest.raises(ModelError, match="token 5 is '<file_sep>', not '<image>'; load the tokenizer"):
        ChatEncoder(encoder.tokenizer, encoder.template, 5, 1)


def test_a_prompt_ends_with_a_question(tokenizers: dict[str, Any]) -> None:
    encoder = build_encoder(tokenizers["smollm2"], "chatml")
    for messages in ([], [say("user", "Hi"), say("assistant", "Yo")]):
        with pytest.raises(DataError, match="a prompt ends with the user's turn; add a question"):
            encoder.encode_prompt(messages)


def test_pieces_align_with_ids_and_join_to_the_text(tokenizers: dict[str, Any]) -> None:
    for family, tokenizer in tokenizers.items():
        encoder = build_encoder(tokenizer, FAMILIES[family][0])
        ids = tokenizer(" 😀 a  b\n\ufffd", add_special_tokens=False).input_ids
        pieces = encoder.decode_pieces(ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces).lstrip() == "😀 a  b\n\ufffd"
        assert encoder.decode_pieces([]) == []
        half = encoder.decode_pieces(ids[: pieces.index(next(p for p in pieces if "😀" in p))])
        assert half[-1].endswith("\ufffd")


def test_encoders_travel_to_data_workers(tokenizers: dict[str, Any]) -> None:
    encoder = build_encoder(tokenizers["smollm2"], "chatml")
    before = encoder.encode(CASES["multi_turn"])
    again = pickle.loads(pickle.dumps(encoder))  # noqa: S301 - our own bytes
    assert again.encode(CASES["multi_turn"]) == before
