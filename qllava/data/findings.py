"""What a look at a data set found: samples that cannot be trained on, and what deserves a second look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from qllava.errors import DataError

MOST_BAD = 0.001
"""Share of bad samples up to which training starts, 0-1."""

REASONS = {
    "not_json": "the line is not JSON",
    "not_text": "broken characters",
    "schema": "keys or types are not LLaVA's or `messages`",
    "roles": "turns do not alternate, human first",
    "no_answer": "no question with an answer",
    "image_mismatch": "`<image>` and images do not match",
    "empty_answer": "an answer is empty",
    "control_text": "control tokens that cannot be escaped",
    "too_long": "image tokens or the first answer do not fit",
    "no_trained_token": "nothing to train",
    "missing": "the picture is not there",
    "outside": "the picture lies outside the image folder",
    "unreadable": "the picture cannot be read",
    "too_large": "the picture is too large or too thin",
}
"""What keeps a sample from being trained on."""

DOUBTS = {
    "cut_turns": "last turns cut to fit max_length",
    "half_turns": "turns without their other half, left out",
    "control_text": "control tokens in texts, made harmless",
    "extra_placeholder": "more `<image>` than images; it is text",
    "repeated_id": "the id is another sample's, too",
    "duplicate": "equal to an earlier sample",
    "near_duplicate": "nearly equal, about the same picture",
    "held_out": "the picture is in the held-out set, too",
}
"""What can be trained on and may still be wrong."""

# Found only in rows that are tokenised, and in pictures that are decoded: a spread of them in a quick look.
TOKEN_REASONS = frozenset({"control_text", "too_long", "no_trained_token"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One sample and what is wrong with it; `row` counts from 0, `reason` is a key of `REASONS` or `DOUBTS`."""

    row: int
    id: str
    reason: str
    message: str


@dataclass(frozen=True)
class Findings:
    """The result of a check.

    Attributes:
        rows: of the data set.
        tokenized: rows that were tokenised; in a quick look at a large set a spread of them.
        pictures: different pictures; all are looked for and have their headers read.
        decoded: pictures that were read to their end.
        broken: of these, how many could not be.
        broken_samples: bad samples for this reason alone.
        text_only: rows that the stage leaves out because they have no picture.
        bad: what cannot be trained on, by row.
        doubtful: what deserves a second look, by row.
        doubts: how often each kind occurred: turns for `cut_turns` and `half_turns`, occurrences for `control_text`,
            samples for the rest.
        lengths: (longest length of the bin in tokens, samples) of the tokenised rows.
        longest: tokens of the longest.
        thorough: whether everything was looked at.
        stamp: changes when a picture file does.
    """

    rows: int
    tokenized: int
    pictures: int
    decoded: int
    broken: int
    broken_samples: int
    text_only: int
    bad: tuple[Finding, ...]
    doubtful: tuple[Finding, ...]
    doubts: dict[str, int]
    lengths: tuple[tuple[int, int], ...]
    longest: int
    thorough: bool
    stamp: str

    @property
    def reasons(self) -> Counter[str]:
        """Bad samples by reason."""
        return Counter(finding.reason for finding in self.bad)

    @property
    def complete(self) -> bool:
        """Whether every row that is trained on was tokenised, so that `longest` is the longest there is."""
        return self.thorough or self.tokenized == self.rows - self.text_only

    @property
    def bad_share(self) -> float:
        """Estimated share of bad samples, 0-1: each kind of fault over the rows or pictures looked at for it."""
        if self.thorough:
            return len(self.bad) / max(1, self.rows)
        reasons = self.reasons
        by_token = sum(reasons[reason] for reason in TOKEN_REASONS)
        certain = len(self.bad) - by_token - self.broken_samples
        return min(
            1.0, certain / max(1, self.rows) + by_token / max(1, self.tokenized) + self.broken / max(1, self.decoded)
        )

    def tolerable(self, max_bad: float) -> bool:
        """Whether training may start without the bad ones.

        One bad sample is always tolerated unless none is allowed (0): in a set of a few hundred it is above any
        sensible share, and it is named. A second one in so few may be a pattern, and somebody should look.
        """
        return self.bad_share <= max_bad or (len(self.bad) <= 1 and max_bad > 0)

    def require(self, max_bad: float, source: str) -> None:
        """Refuse a data set with too many bad samples, or with none that is good.

        Raises:
            DataError: how many, the reasons, one of them in full, and what to do.
        """
        if not self.bad:
            return
        first = self.bad[0]
        named = f"sample {first.id}: {first.message}" if first.id else first.message
        if len(self.bad) == self.rows - self.text_only or self.bad_share >= 1:
            raise DataError(f"none of the {len(self.bad):,} samples examined can be trained on; {named}")
        if not self.tolerable(max_bad):
            raise DataError(
                f"{len(self.bad):,} of {self.rows:,} samples cannot be trained on ({self.bad_share:.2%}, more than "
                f"--max-bad {max_bad:g}): {counted(self.reasons)}; {named}; `qllava data check {source}` lists "
                "them, --fix OUT writes the others"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Findings:
        """The findings that `to_dict` gave.

        Raises:
            TypeError, ValueError, KeyError: they are not of this version or are damaged.
        """
        listed = {name: tuple(Finding(**item) for item in values[name]) for name in ("bad", "doubtful")}
        lengths = tuple((int(edge), int(count)) for edge, count in values["lengths"])
        return cls(**{**values, **listed, "lengths": lengths})


def counted(reasons: Counter[str]) -> str:
    """`9 missing, 3 too_long`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())


def length_bins(lengths: Iterable[int], edges: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """How many lengths lie in each bin, up to and with its edge; `edges` ascend, and the last is the largest length."""
    bins = dict.fromkeys(edges, 0)
    for length in lengths:
        bins[next(edge for edge in bins if length <= edge)] += 1
    return tuple(bins.items())
