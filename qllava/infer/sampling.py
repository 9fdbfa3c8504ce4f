"""How the next token is chosen from the logits.

Shapes: B rows, K vocabulary rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qllava.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """Generation settings.

    Attributes:
        temperature: 0 is greedy: always the likeliest token.
        top_p: sample from the smallest set of tokens that holds this share of the probability, in (0, 1].
        max_new_tokens: an answer is cut here.
        seed: of the draws; greedy answers do not depend on it.

    Raises:
        UsageError: a value out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise UsageError(f"temperature={self.temperature:g} is not in 0 to 100; use 0 (greedy) to about 1")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"top_p={self.top_p:g} is not above 0 and at most 1; use 1 for all tokens, 0.9 for fewer")
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens={self.max_new_tokens} leaves no room for an answer; use 1 or more")

    def generator(self, device: str) -> torch.Generator:
        """A fresh source of draws on a device."""
        return torch.Generator(device).manual_seed(self.seed)


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """(B, K) fp32 logits -> (B,) token ids."""
    if sampling.temperature == 0.0:
        return logits.argmax(-1)
    probability, order = torch.softmax(logits / sampling.temperature, -1).sort(-1, descending=True)
    if sampling.top_p < 1.0:
        # A token stays if those before it hold less than top_p, so the likeliest always stays.
        before = probability.cumsum(-1) - probability
        probability = probability.masked_fill(before >= sampling.top_p, 0.0)
    drawn = torch.multinomial(probability, 1, generator=generator)
    return order.gather(-1, drawn)[:, 0]
