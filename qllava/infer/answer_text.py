"""From generated tokens to text that may be shown: never half a character, never part of what ends the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

# What a decoder writes for bytes that are no whole character yet.
_HALF = "\ufffd"


@dataclass
class AnswerText:
    """One answer while it is generated.

    White space around it is trimmed: some templates open an answer with a space, which is theirs and not the answer's.

    Attributes:
        tokenizer: decodes; special tokens are left out.
        stops: texts that end the answer (`###`); the first one and all behind it are dropped.
        stopped: a stop text was met; further tokens are ignored.
    """

    tokenizer: PreTrainedTokenizerFast
    stops: Sequence[str] = ()
    stopped: bool = False
    _ids: list[int] = field(default_factory=list)
    _shown: int = 0

    def push(self, token: int) -> str:
        """Take one more token; returns the text that has become certain, often empty."""
        if self.stopped:
            return ""
        self._ids.append(token)
        text, self.stopped = self._cut()
        return self._show(text if self.stopped else text[: len(text) - self._uncertain(text)])

    def finish(self) -> str:
        """The rest, once no token follows."""
        return self._show(self._cut()[0].rstrip(_HALF))

    def _cut(self) -> tuple[str, bool]:
        text = str(self.tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        # Before trimming: the end of the `plain` template is a line break, and an answer may begin with one.
        ends = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return text[: min(ends)].strip() if ends else text.lstrip(), bool(ends)

    def _uncertain(self, text: str) -> int:
        """Length of the tail that may still change or go: an unfinished character, the start of a stop, white space."""
        kept = text.rstrip(_HALF)
        starts = [
            size
            for stop in self.stops
            for size in range(min(len(stop) - 1, len(kept)), 0, -1)
            if kept.endswith(stop[:size])
        ]
        kept = kept[: len(kept) - max(starts, default=0)].rstrip()
        return len(text) - len(kept)

    def _show(self, certain: str) -> str:
        piece = certain.rstrip()[self._shown :]
        self._shown += len(piece)
        return piece
