"""Answers of a trained model: streamed one by one, or many at once.

Shapes: B rows, T tokens, p tokens of a shared prefix, I images, P patches, D model width, K vocabulary rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from PIL import Image
from transformers import BaseImageProcessor, DynamicCache, LlavaForConditionalGeneration, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPooling

from qllava.data.encode import ChatEncoder
from qllava.data.images import normalize, to_pixels
from qllava.errors import DataError
from qllava.infer.answer_text import AnswerText
from qllava.infer.batches import cache_bytes_per_token, plan_batches, shared_prefix
from qllava.infer.sampling import Sampling, choose
from qllava.infer.vocabulary import special_ids, stop_ids, suppressed_ids
from qllava.model.forward import tower_features
from qllava.model.precision import autocast
from qllava.types import Message

Picture = Image.Image
Prompt = tuple[Sequence[Message], Sequence[Picture]]

# Rows of one batch. 4-bit weights are unpacked once a forward, whatever the batch: many rows share that cost.
MAX_ROWS = 128
# Keys and values of one batch, in bytes.
CACHE_BYTES = 2 << 30


class Loaded(Protocol):
    """What an engine needs of a loaded run (`checkpoint.load.LoadedRun` is one)."""

    @property
    def model(self) -> PeftModel | LlavaForConditionalGeneration:
        """In eval mode, under whatever quantisation."""

    @property
    def encoder(self) -> ChatEncoder:
        """Speaks the run's chat template."""

    @property
    def image_processor(self) -> BaseImageProcessor:
        """Of the vision tower."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""


@dataclass
class Rows:
    """Answers under way: B rows that share one cache.

    `mask` (B, T) 1 = a token, 0 = padding; `position` (B,) of the next token; `logits` (B, K) that choose it; `prompt`
    says which prompt each row answers.
    """

    prompt: list[int]
    cache: DynamicCache
    mask: torch.Tensor
    position: torch.Tensor
    logits: torch.Tensor


class Engine:
    """A trained model that answers."""

    def __init__(self, loaded: Loaded, *, mixed_precision: bool = True) -> None:
        """Take a loaded run; `mixed_precision=False` computes in the weights' own precision, without autocast."""
        base = loaded.model.get_base_model() if isinstance(loaded.model, PeftModel) else loaded.model
        if not isinstance(base, LlavaForConditionalGeneration):
            raise TypeError(f"expected a LLaVA model, got {type(base).__name__}")
        self._model = base
        self._encoder = loaded.encoder
        self._image_processor = loaded.image_processor
        self._device = loaded.device
        self._mixed_precision = mixed_precision
        self.stop_ids = stop_ids(base, loaded.encoder)
        special = special_ids(loaded.encoder)
        # A stop that is a token of its own is met by id; the others are looked for in the text.
        self.stop_texts = [stop for stop in loaded.encoder.template.stop if stop not in special]
        self._suppressed = suppressed_ids(base, loaded.encoder, self.stop_ids).to(self._device)

    def stream(
        self, messages: Sequence[Message], images: Sequence[Picture], sampling: Sampling | None = None
    ) -> Iterator[str]:
        """Answer one conversation, yielding pieces of text as they become certain; joined they are the answer.

        Args:
            messages: the conversation so far; ends with the user's turn.
            images: the pictures, in the order of the messages' image parts.
            sampling: greedy, at most 512 tokens unless given.

        Raises:
            DataError: no question at the end, a number of images other than the messages name, or a conversation that
                the model's context cannot hold.
        """
        settings = sampling or Sampling()
        ids = self.encode((messages, images))
        text = AnswerText(self._encoder.tokenizer, self.stop_texts)
        generator = settings.generator(self._device)
        rows = self.start([ids], [tuple(images)])
        for count in range(1, self._room(ids, settings.max_new_tokens) + 1):
            token = self._choose(rows, settings, generator)
            if int(token) in self.stop_ids:
                break
            if piece := text.push(int(token)):
                yield piece
            if text.stopped or count == settings.max_new_tokens:
                break
            rows = self.advance(rows, token)
        if piece := text.finish():
            yield piece

    def answer_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 512,
        max_rows: int = MAX_ROWS,
        cache_bytes: int = CACHE_BYTES,
    ) -> list[str]:
        """Greedy answers to many conversations, in their order; the same as one at a time, faster.

        Prompts about the same picture (the same object) share its computation: the tower runs once a picture, and what
        the prompts of a batch have in common up to their image tokens is computed once a picture.

        Args:
            prompts: (messages, images) each, as for `stream`.
            max_new_tokens: every answer is cut here.
            max_rows: prompts of one batch, at most.
            cache_bytes: keys and values of one batch, at most (a single prompt may exceed it).

        Raises:
            DataError: as `stream`, for any of the prompts.
        """
        answers = [""] * len(prompts)
        for index, answer in self.answer_each(
            prompts, max_new_tokens=max_new_tokens, max_rows=max_rows, cache_bytes=cache_bytes
        ):
            answers[index] = answer
        return answers

    def answer_each(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 512,
        max_rows: int = MAX_ROWS,
        cache_bytes: int = CACHE_BYTES,
    ) -> Iterator[tuple[int, str]]:
        """The same as they come: (index of the prompt, its answer), the short ones of a batch first.

        Whoever keeps each one loses none when the rest is broken off.

        Raises:
            DataError: as `answer_batch`, before the first answer.
        """
        settings = Sampling(max_new_tokens=max_new_tokens)
        encoded = [self.encode(prompt) for prompt in prompts]
        pictures = [tuple(images) for _, images in prompts]
        features: dict[int, torch.Tensor] = {}
        lengths = [len(ids) + self._room(ids, max_new_tokens) for ids in encoded]
        max_tokens = cache_bytes // cache_bytes_per_token(self.text_config)
        keys = [tuple(map(id, images)) for images in pictures]
        for batch in plan_batches(keys, lengths, max_rows=max_rows, max_tokens=max_tokens):
            here = {id(picture) for index in batch for picture in pictures[index]}
            features = {key: value for key, value in features.items() if key in here}
            rows = self.start([encoded[i] for i in batch], [pictures[i] for i in batch], features, prompt=batch)
            yield from self._finish(rows, encoded, settings)

    def _finish(self, rows: Rows, encoded: Sequence[list[int]], settings: Sampling) -> Iterator[tuple[int, str]]:
        """Generate until every row has ended; (prompt, text) of each that does."""
        said = dict.fromkeys(rows.prompt, "")
        texts = {index: AnswerText(self._encoder.tokenizer, self.stop_texts) for index in rows.prompt}
        room = {index: self._room(encoded[index], settings.max_new_tokens) for index in rows.prompt}
        generator = settings.generator(self._device)
        for count in range(1, max(room.values()) + 1):
            token = self._choose(rows, settings, generator)
            for index, chosen in zip(rows.prompt, token.tolist(), strict=True):
                text = texts.get(index)
                if text is None:
                    continue
                if chosen not in self.stop_ids:
                    said[index] += text.push(chosen)
                if chosen in self.stop_ids or text.stopped or count == room[index]:
                    yield index, said[index] + text.finish()
                    del texts[index]
            if not texts:
                return
            if 2 * len(texts) <= len(rows.prompt):
                # Rows that have ended are carried along until they are half of the batch: dropping copies the cache.
                kept = [place for place, index in enumerate(rows.prompt) if index in texts]
                rows, token = self.keep(rows, kept), token[kept]
            rows = self.advance(rows, token)

    def encode(self, prompt: Prompt) -> list[int]:
        """(T,) ids of a prompt, images expanded.

        Raises:
            DataError: as `stream`.
        """
        messages, images = prompt
        named = sum(part["type"] == "image" for message in messages for part in message["content"])
        if named != len(images):
            raise DataError(f"the messages name {named} images, {len(images)} were given; give one for each")
        ids = self._encoder.encode_prompt(messages)
        if len(ids) >= self.context:
            raise DataError(
                f"the conversation takes {len(ids)} tokens and the model holds {self.context}; "
                "start anew (/reset in chat) or ask something shorter"
            )
        return ids

    @property
    def context(self) -> int:
        """Tokens a conversation and its answer may take together."""
        return int(self.text_config.max_position_embeddings)

    @property
    def text_config(self) -> Any:
        """The language model's config."""
        return self._model.config.text_config

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Of the language model."""
        return self._encoder.tokenizer

    @property
    def tokens_per_image(self) -> int:
        """P, how many tokens a picture takes."""
        return self._encoder.tokens_per_image

    @property
    def image_processor(self) -> BaseImageProcessor:
        """Of the vision tower."""
        return self._image_processor

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._device

    def _room(self, ids: Sequence[int], wanted: int) -> int:
        """How many tokens an answer may take."""
        return min(wanted, self.context - len(ids))

    # Forward passes. No `yield` inside the contexts: they would leak into the caller.

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.no_grad(), autocast(self._device) if self._mixed_precision else contextlib.nullcontext():
            yield

    def start(
        self,
        encoded: Sequence[list[int]],
        pictures: Sequence[tuple[Picture, ...]],
        features: dict[int, torch.Tensor] | None = None,
        *,
        prompt: list[int] | None = None,
    ) -> Rows:
        """Read prompts: what they share once for each picture, then the rest of every one; B rows.

        Args:
            encoded: (T,) ids each, of `encode`.
            pictures: of each prompt.
            features: projected pictures by object id, looked up and added to.
            prompt: what the rows' `prompt` says; counted from 0 unless given.
        """
        features = {} if features is None else features
        prompt = [*range(len(encoded))] if prompt is None else prompt
        with self._precision():
            self._project([picture for row in pictures for picture in row], features)
            keys = [tuple(map(id, row)) for row in pictures]
            distinct = list(dict.fromkeys(keys))
            shared = shared_prefix(encoded, self._encoder.image_token_id) if len(distinct) < len(keys) else 0
            cache = DynamicCache()
            device = self._device
            if shared:
                ids = torch.tensor([encoded[0][:shared]] * len(distinct), device=device)
                position = torch.arange(shared, device=device).expand_as(ids)
                self._forward(
                    ids, torch.ones_like(ids), position, cache, [features[i] for key in distinct for i in key]
                )
                place = {key: row for row, key in enumerate(distinct)}
                _select(cache, [place[key] for key in keys], device)
            rest = [ids[shared:] for ids in encoded]
            width = max(map(len, rest))
            # What stands in a padded place is masked; it only may not be the image token.
            ids = torch.tensor([[rest_ids[0]] * (width - len(rest_ids)) + rest_ids for rest_ids in rest], device=device)
            real = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rest], device=device)
            ids = ids.masked_fill(real == 0, self._filler)
            mask = torch.cat([real.new_ones(len(rest), shared), real], 1)
            position = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
            used = [] if shared else [features[i] for key in keys for i in key]
            logits = self._forward(ids, mask, position, cache, used)
            return Rows(prompt, cache, mask, position[:, -1] + 1, logits)

    def advance(self, rows: Rows, token: torch.Tensor) -> Rows:
        """Read one more token (B,) in every row."""
        with self._precision():
            mask = torch.cat([rows.mask, rows.mask.new_ones(len(token), 1)], 1)
            logits = self._forward(token[:, None], mask, rows.position[:, None], rows.cache, [])
        return Rows(rows.prompt, rows.cache, mask, rows.position + 1, logits)

    def keep(self, rows: Rows, kept: list[int]) -> Rows:
        """Only some of the rows."""
        _select(rows.cache, kept, self._device)
        return Rows([rows.prompt[i] for i in kept], rows.cache, rows.mask[kept], rows.position[kept], rows.logits[kept])

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        position: torch.Tensor,
        cache: DynamicCache,
        images: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Read (B, t) ids behind what the cache holds; (B, K) fp32 logits after the last.

        `images`: (P, D) each, in the order of their tokens, row after row.
        """
        # The stock forward takes projected features ready-made, one tensor an image, whatever the type says.
        features: Any = list(images)
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=features)} if images else {}
        output = self._model.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            mm_encoder_outputs=encoded,
            use_cache=True,
        )
        logits: torch.Tensor = self._model.lm_head(output.last_hidden_state[:, -1])
        return logits.float()

    def _project(self, pictures: Sequence[Picture], features: dict[int, torch.Tensor]) -> None:
        """Run tower and projector on the pictures that `features` lacks; (P, D) each, by object id."""
        missing = list({id(picture): picture for picture in pictures if id(picture) not in features}.values())
        if not missing:
            return
        processor: Any = self._image_processor
        pixels = torch.stack([torch.as_tensor(to_pixels(processor, picture)) for picture in missing])
        values = normalize(pixels.to(self._device), processor.image_mean, processor.image_std)
        projector = self._model.model.multi_modal_projector
        projected = projector(tower_features(self._model, values).to(projector.linear_1.weight.dtype))
        features.update(zip(map(id, missing), projected, strict=True))

    def allowed(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, K) logits with what is never generated at minus infinity."""
        return logits.masked_fill(self._suppressed, -torch.inf)

    def _choose(self, rows: Rows, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
        return choose(self.allowed(rows.logits), sampling, generator)

    @property
    def _filler(self) -> int:
        """Any id but the image token's."""
        return 1 if self._encoder.image_token_id == 0 else 0


def _select(cache: DynamicCache, rows: Sequence[int], device: str) -> None:
    """Make the cache hold these of its rows, in this order; a row may be taken several times."""
    index: Any = torch.tensor(rows, device=device)
    cache.reorder_cache(index)
