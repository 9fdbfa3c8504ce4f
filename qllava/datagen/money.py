"""What requests cost: prices, usage, and a budget that counts requests in flight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from re import sub
from typing import Any, Literal

from qllava.errors import UsageError

_MILLION = 1_000_000
_UNKNOWN_IMAGE_TOKENS = 2_500
_FIELDS = ("input", "cached_input", "output", "image_tokens", "batch")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer or the sum of many; `cached` are those of `prompt` that were billed as cached."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; `image_tokens` a picture at the most; `batch` the share that a batch costs."""

    input: float
    cached_input: float
    output: float
    image_tokens: int = _UNKNOWN_IMAGE_TOKENS
    batch: float = 1.0

    def cost(self, usage: Usage, *, batch: bool = False) -> float:
        """USD."""
        fresh = usage.prompt - usage.cached
        total = fresh * self.input + usage.cached * self.cached_input + usage.completion * self.output
        return total / _MILLION * (self.batch if batch else 1.0)


def usage_of(response: Mapping[str, Any]) -> Usage:
    """The usage of a chat completion; zeros where the server does not say."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    prompt = _count(usage.get("prompt_tokens"))
    return Usage(prompt, min(prompt, _count(cached)), _count(usage.get("completion_tokens")))


def load_prices(path: Path | None) -> dict[str, Price]:
    """The prices that come with qllava, with those of `path` over them.

    Raises:
        UsageError: the file cannot be read, or an entry is not `MODEL: {input: USD, output: USD, ...}`.
    """
    prices = _parse(files("qllava.datagen").joinpath("prices.yaml").read_text(encoding="utf-8"), "prices.yaml")
    if path is None:
        return prices
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise UsageError(f"--prices {path} cannot be read ({why}); give a YAML file") from None
    return prices | _parse(text, f"--prices {path}")


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """The price of a model, under its own name or without the date at its end; None when it is not known."""
    return prices.get(model) or prices.get(sub(r"-\d{4}-\d{2}-\d{2}$", "", model))


class Budget:
    """What may still be spent: nothing is sent whose worst case would go over a limit.

    `spent` USD for answers, `perhaps` USD at most for requests whose answer was lost, `held` USD at most for those in
    flight, `sent` requests. All USD are 0 without a price.
    """

    def __init__(
        self,
        price: Price | None,
        *,
        max_cost: float | None,
        max_requests: int | None,
        spent: float = 0.0,
        batch: bool = False,
    ) -> None:
        self.spent = spent
        self.perhaps = 0.0
        self.held = 0.0
        self.sent = 0
        self.usage = Usage()
        self.reached: str | None = None
        self._price = price
        self._max_cost = max_cost
        self._max_requests = max_requests
        self._batch = batch

    @property
    def priced(self) -> bool:
        """Whether USD mean anything here."""
        return self._price is not None

    def bound(self, prompt_tokens: int, answer_tokens: int, pictures: int) -> float:
        """The most that one request can cost, USD."""
        if self._price is None:
            return 0.0
        prompt = prompt_tokens + pictures * self._price.image_tokens
        return self._price.cost(Usage(prompt, 0, answer_tokens), batch=self._batch)

    def take(self, bound: float) -> Literal["go", "wait", "stop"]:
        """Ask to send one request; `wait` until one in flight is settled, or `stop`, and `reached` says why."""
        if self._max_requests is not None and self.sent >= self._max_requests:
            self.reached = f"--max-requests {self._max_requests}"
            return "stop"
        if self._max_cost is not None and self.spent + self.perhaps + self.held + bound > self._max_cost + 1e-12:
            if self.held > 0.0:
                return "wait"
            self.reached = f"--max-cost {self._max_cost:g}"
            return "stop"
        self.held += bound
        self.sent += 1
        return "go"

    def settle(self, bound: float, usage: Usage) -> None:
        """One request was answered."""
        self._release(bound)
        self.usage += usage
        if self._price is not None:
            self.spent += self._price.cost(usage, batch=self._batch)

    def fail(self, bound: float, *, perhaps_billed: bool) -> None:
        """One request was not answered; what the server may have billed nevertheless counts towards the limit."""
        self._release(bound)
        if perhaps_billed:
            self.perhaps += bound

    def _release(self, bound: float) -> None:
        held = self.held - bound
        self.held = held if held > 1e-12 else 0.0  # sums of floats do not come back to zero by themselves


def _parse(text: str, name: str) -> dict[str, Price]:
    import yaml  # noqa: PLC0415 - 30 ms that `--help` does not need

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{name} is no mapping; write MODEL: {{input: 0.40, output: 1.60}}, USD per million tokens")
    return {str(model): _price(entry, f"{name}: {model}") for model, entry in content.items()}


def _price(given: object, name: str) -> Price:
    entry: dict[str, Any] = given if isinstance(given, dict) else {}
    if not {"input", "output"} <= entry.keys():
        raise UsageError(f"{name} needs input and output, USD per million tokens")
    for key, value in entry.items():
        if key not in _FIELDS:
            raise UsageError(f"{name} has {key!r}; known are {', '.join(_FIELDS)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not isfinite(value) or value < 0:
            raise UsageError(f"{name}: {key} is {value!r}; give a number, 0 or more")
    return Price(
        input=float(entry["input"]),
        cached_input=float(entry.get("cached_input", entry["input"])),
        output=float(entry["output"]),
        image_tokens=int(entry.get("image_tokens", _UNKNOWN_IMAGE_TOKENS)),
        batch=float(entry.get("batch", 1.0)),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
