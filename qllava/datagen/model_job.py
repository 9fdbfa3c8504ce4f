"""What a language model is to write, the numbers that go with it, and what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qllava.datagen.answer_format import AnswerFormat
from qllava.datagen.asking import Policy
from qllava.datagen.lessons import KINDS, Kind
from qllava.datagen.mix import DEFAULT_MIX
from qllava.datagen.pipeline import DEFAULT_QUESTIONS
from qllava.datagen.prompting import Context, Sampling
from qllava.datagen.teachers.batch import BatchPolicy
from qllava.datagen.writer import ImagePosition
from qllava.errors import UsageError

DEFAULT_LIMIT = 1_000
"""Pictures; a language model costs money or hours, so the whole folder has to be asked for."""


@dataclass(frozen=True, slots=True)
class ModelJob:
    """What to write with a language model, and how.

    `images`, `annotations`, `shard`, `target` and `unpack_to`: see `intake.take_in`. `limit` pictures (None: all);
    `kinds` None means those of `mix`; `questions` at most a held-out picture; `timeout_s` seconds an answer may take;
    `max_cost` USD for all answers of the folder, earlier runs included; `max_requests` requests of this run, repeated
    ones included; `batch` and `policy` say how hard to try.
    """

    images: Path
    annotations: Path | None = None
    out: Path = Path("data")
    teacher: str = "openai"
    model: str | None = None
    base_url: str | None = None
    see: bool = False
    limit: int | None = DEFAULT_LIMIT
    seed: int = 42
    questions: int = DEFAULT_QUESTIONS
    kinds: tuple[str, ...] | None = None
    mix: Mapping[Kind, float] = field(default_factory=lambda: dict(DEFAULT_MIX))
    context: Context = "captions+boxes"
    form: AnswerFormat = "json"
    sampling: Sampling = field(default_factory=Sampling)
    image_position: ImagePosition = "first"
    prompts: Path | None = None
    prices: Path | None = None
    max_cost: float | None = None
    max_requests: int | None = None
    timeout_s: float = 600.0
    policy: Policy = field(default_factory=Policy)
    batch: BatchPolicy = field(default_factory=BatchPolicy)
    shard: str | None = None
    target: int | None = None
    unpack_to: Path | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would cost: tokens are estimates (four characters each), costs follow from them.

    `requests` are still to be asked, `found` were answered before; `cost` and `whole_cost` USD for this run and for
    all `whole_pictures` of the folder from nothing, None without a known price.
    """

    pictures: int
    requests: int
    found: int
    prompt_tokens: int
    answer_tokens: int
    cost: float | None
    whole_pictures: int
    whole_requests: int
    whole_cost: float | None


def check_numbers(job: ModelJob) -> None:
    """Refuse what cannot work before anything is read.

    Raises:
        UsageError: a number out of range, a kind that is not known, the template teacher.
    """
    least: tuple[tuple[str, float | None, float], ...] = (
        ("--concurrency", job.policy.concurrency, 1),
        ("--retries", job.policy.retries, 0),
        ("--max-requests", job.max_requests, 1),
        ("--max-tokens", job.sampling.max_tokens, 1),
        ("--poll", job.batch.poll_s, 0.01),
        ("--timeout", job.timeout_s, 0.01),
        ("--temperature", job.sampling.temperature, 0),
    )
    for flag, value, smallest in least:
        if value is not None and not smallest <= value < float("inf"):
            raise UsageError(f"{flag} {value:g} cannot work; give {smallest:g} or more")
    if job.max_cost is not None and not 0.0 < job.max_cost < float("inf"):
        raise UsageError(f"--max-cost {job.max_cost:g} buys nothing; give USD above 0")
    if job.teacher == "template":
        raise UsageError("--teacher template asks no model; its run is qllava.datagen.pipeline.generate")
    unknown = [kind for kind in job.mix if kind not in KINDS]
    if unknown:
        raise UsageError(f"--mix {unknown[0]!r} is not known; kinds are {', '.join(KINDS)}")
