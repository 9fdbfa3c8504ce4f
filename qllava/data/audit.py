"""A look at the data before the first step: what can be trained on, and what is left out and why.

Encoding every sample of a large set takes minutes, so there a spread of samples stands for the rest; what slips
through is left out, counted and named during training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from qllava.data.encode import ChatEncoder, SampleRejected
from qllava.data.formats import ConversationTable
from qllava.data.steps import Conversations
from qllava.errors import DataError
from qllava.types import Conversation

# Tokenising takes about a millisecond a sample: this is the most that is looked at beforehand.
LOOK_AT = 4000


@dataclass(frozen=True)
class Selection:
    """Some rows of a table, by index."""

    table: Conversations
    indices: tuple[int, ...]

    def __len__(self) -> int:
        """Rows selected."""
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Conversation:
        """The `index`-th of them."""
        return self.table[self.indices[index]]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        usable: the samples to train on.
        groups: of each usable sample, its pictures (samples of equal pictures are trained together), or its own number.
        text_only: rows left out because the stage needs pictures.
        examined: how many samples were encoded.
        rejected: (id, reason) of examined samples that cannot be trained on; they are left out.
        reasons: how often each reason occurred.
        longest: tokens of the longest examined sample.
    """

    usable: Conversations
    groups: list[Hashable]
    text_only: int
    examined: int
    rejected: list[tuple[str, str]]
    reasons: Counter[str]
    longest: int

    @property
    def complete(self) -> bool:
        """Whether every sample was encoded, so that `longest` is the longest there is."""
        return self.examined == len(self.usable) + len(self.rejected)


def audit(conversations: Conversations, encoder: ChatEncoder, *, max_length: int, needs_image: bool) -> Audit:
    """Examine a data set.

    Args:
        conversations: all of it.
        encoder: of the stage.
        max_length: tokens of a sample at most.
        needs_image: leave out text-only rows, which stage 1 has no use for.

    Raises:
        DataError: there is no sample, none has a picture where pictures are needed, or none can be trained on.
    """
    if len(conversations) == 0:
        raise DataError("the data holds no samples")
    stride = -(-len(conversations) // LOOK_AT)
    pictures = _picture_groups(conversations)
    kept: list[int] = []
    groups: list[Hashable] = []
    rejected: list[tuple[str, str]] = []
    reasons: Counter[str] = Counter()
    text_only = examined = longest = 0
    for index, group in enumerate(pictures):
        if needs_image and group is None:
            text_only += 1
            continue
        if index % stride == 0:
            examined += 1
            conversation = conversations[index]
            try:
                longest = max(longest, len(encoder.encode(conversation, max_length).input_ids))
            except SampleRejected as error:
                reasons[error.reason] += 1
                rejected.append((conversation.id, str(error)))
                continue
        kept.append(index)
        groups.append(("text", index) if group is None else group)
    if text_only == len(conversations):
        raise DataError("stage 1 needs pictures, and every sample is text only; use this data in stage 2")
    if examined and len(rejected) == examined:
        sample, reason = rejected[0]
        raise DataError(f"none of the {examined} samples examined can be trained on; sample {sample}: {reason}")
    return Audit(Selection(conversations, tuple(kept)), groups, text_only, examined, rejected, reasons, longest)


def _picture_groups(conversations: Conversations) -> Iterable[Hashable | None]:
    """Of each sample, a key that samples of the same pictures share; None for text only.

    A table that knows spares decoding every row.
    """
    known = conversations.picture_groups() if isinstance(conversations, ConversationTable) else None
    if known is not None:
        return (None if group < 0 else group for group in known.tolist())
    return (conversations[index].images or None for index in range(len(conversations)))
