"""Answers in clauses, and which of them plainly state what is in the picture.

Only plain statements are held against the annotations. A clause with "might", "not", "like", quoted words or a toy in
it may be true in a way that the reader of captions does not follow, and is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qllava.datagen import lexicon
from qllava.datagen.captions import Caption, CaptionReader, Mention

_BREAKS = re.compile(
    r"(?<=[.!?;])\s+|\n+|;|,? (?:but|while|whereas|although|though|however|because|since|so that)\b", re.IGNORECASE
)
_HEDGES = frozenset(
    lexicon.words(
        "if could might may maybe perhaps possibly possible probably likely unlikely would should must "
        "suggest suggests suggesting imply implies implying typically usually often generally commonly "
        "sometimes imagine imagining unless whether potential potentially example instance ideal designed "
        "designated meant intended suitable will need needs needed require requires want wants enough "
        "capacity accommodate accommodates fit fits room seat seats or like likes resembles resembling "
        "resemble reminiscent similar shaped as such symbolizes represents representing called named known "
        "term word words text reads reading labeled labelled says saying written writing logo sign signs "
        "signage poster posters painting paintings painted statue statues sculpture sculptures figurine "
        "figurines sticker stickers drawing drawings drawn cartoon mural decal printed print toy toys stuffed "
        "plush fake model models replica replicas reflection reflections mirror mirrors shadow shadows "
        "costume screen displayed about around approximately nearly almost roughly per up average instead "
        "rather than except besides pretend imaginary missing absent absence lack lacks lacking free avoid "
        "avoiding prevent preventing attract once previously usual unseen hidden behind-the-scenes any every "
        "anyone everyone whoever"
    )
)
_NEGATIONS = frozenset(
    lexicon.words("not no never without neither nor none nobody nothing cannot hardly barely nowhere")
)
_ABLE = re.compile(r"\bcan (?:also |clearly |be )*(?:see|seen|spot|spotted|observe|observed|found|make out)\b")
_QUOTES = re.compile(r"[\"\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}]")
_LOOKS_ONLY = re.compile(
    r"\b(?:waiting|looking|ready|preparing|searching|used|perfect|great|good|watching) (?:for|to)\b"
)

_SHOWING = (
    r"shows?|features?|depicts?|contains?|captures?|displays?|includes?|has|consists of|presents?|showcases?|portrays?"
)
OPENER = re.compile(
    r"^(?:yes , |in (?:the|this) (?:image|picture|photo|scene|photograph) , |in total , |also , |overall , )*"
    r"(?:there (?:are|is)|(?:i|we|you) (?:can )?(?:also |clearly )?(?:see|spot|observe|count)|"
    rf"(?:the|this) (?:image|picture|photo|scene|photograph) (?:also |clearly )?(?:{_SHOWING})|it (?:{_SHOWING}))"
    r"(?: exactly| only| just| a total of| also| clearly)*(?= |$)"
)
"""How a plain statement of what is there begins; matched against a clause's words joined by blanks."""
FRAME_TAIL = frozenset(
    lexicon.words(
        "in the this of image picture photo photograph scene frame visible present shown here there total "
        "altogether all overall depicted featured captured seen can be i you we see"
    )
)
"""Words after which a statement still speaks of the whole picture."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause with its mentions; `plain` means that it states something as a fact about the picture."""

    text: str
    caption: Caption
    plain: bool
    negated: bool

    @property
    def tokens(self) -> tuple[str, ...]:
        """Words and marks in lower case."""
        return self.caption.tokens

    @property
    def mentions(self) -> tuple[Mention, ...]:
        """Listed categories that the clause names, in order."""
        return self.caption.mentions

    def opened(self) -> int:
        """The number of words of the opener ("there are", "the image shows"); 0 without one."""
        found = OPENER.match(" ".join(self.tokens))
        return len(found[0].split(" ")) if found else 0

    def of_the_frame(self, start: int) -> bool:
        """Whether nothing but "in the picture" and the like follows from a word on."""
        rest = [token for token in self.tokens[start:] if token not in {".", "!", ","}]
        return set(rest) <= FRAME_TAIL


def clauses(text: str, reader: CaptionReader) -> list[Clause]:
    """The clauses of an answer, in order."""
    found: list[Clause] = []
    for part in _BREAKS.split(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        if part.strip():
            caption = reader.read(part)
            words = set(caption.tokens)
            negated = bool(words & _NEGATIONS) or "n't" in part.lower()
            open_ended = "can" in words and not _ABLE.search(part.lower())
            vague = (
                words & _HEDGES or open_ended or "?" in part or _QUOTES.search(part) or _LOOKS_ONLY.search(part.lower())
            )
            found.append(Clause(part.strip(), caption, not vague and not negated, negated))
    return found


def said_number(word: str) -> int | None:
    """`two` -> 2, `12` -> 12, `none` -> 0; None for other words."""
    if word == "none":
        return 0
    return int(word) if word.isdecimal() else lexicon.NUMBERS.get(word)
