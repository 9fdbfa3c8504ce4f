"""What the words alone give away: refusals, left-overs of the format, talk of captions and boxes, junk.

Every pattern is narrow: a false rejection throws away an answer that was paid for, so what might be meant well passes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from qllava.datagen.lessons import Kind, Rejection, Turn

EMPTY = "empty"
REFUSAL = "refusal"
LEFT_OVER = "broken format"
SWAPPED = "roles swapped"
SOURCES = "speaks of captions or boxes"
COORDINATES = "coordinates in prose"
MALFORMED = "malformed for its kind"
REPEATS = "repeats itself"
CUT_OFF = "cut off"

_DETAIL_WORDS = 12
_REASONING_WORDS = 8
_LONGEST_QUESTION = 80
"""Words; a longer question tells the picture instead of asking about it."""


def _any(*patterns: str, flags: re.RegexFlag = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), flags)


_SIGHT = r"(?:see|view|access|open|analy[sz]e|process|look at|interpret|observe)"
_PICTURE = r"(?:an? |the |this |that |any |your |these )?(?:actual |attached |provided )?(?:images?|pictures?|photos?)"
_REFUSES = _any(
    r"^\W*(?:i'm|i am) (?:very |really |so )?sorry\b",
    r"^\W*(?:sorry|apologies|i apologi[sz]e)\b(?! we)",
    r"\b(?:i'm|i am) sorry,? (?:but )?i\b",
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|text-based|virtual assistant)\b",
    r"\bi(?:'m| am) (?:just |only )?an? (?:ai|(?:large )?language model)\b",
    rf"\bi (?:can(?:no|')t|can not) (?:directly |actually )?{_SIGHT} {_PICTURE}\b",
    rf"\bi(?:'m| am) (?:not able|unable) to (?:directly |actually )?{_SIGHT}\b",
    r"\bi (?:can(?:no|')t|can not) (?:assist|help) (?:you )?with\b",
    r"\bi (?:can(?:no|')t|can not|won't|am (?:not able|unable) to) (?:provide|answer|fulfill|comply|generate)\b",
    r"\bi (?:do not|don't) have (?:the ability|access|the capability|eyes)\b",
    r"\b(?:please|could you) (?:provide|upload|share|attach) (?:me )?(?:with )?(?:an?|the|your|more) "
    r"(?:image|picture|photo|context|information|details)\b",
    rf"\bwithout (?:seeing|being able to {_SIGHT}|access to) {_PICTURE}\b",
    r"\bno (?:image|picture|photo) (?:was|is|has been) (?:provided|attached|given|uploaded)\b",
)
_LEFT_OVERS = _any(
    r"^\W*(?:question|answer|q|a)\s*\d*\s*:",
    r"^={3,}\s*$|={3,}\s*(?:question|answer)\s*:",
    r"^#{1,6} *(?:human|user|assistant|system|question|answer|instruction|response)\b",
    r"^\W*(?:user|assistant|human|system|gpt|ai)\s*:",
    r"```",
    r'\{\s*"\w+"\s*:',
    r'"(?:question|answer|conversations?|turns)"\s*:',
    r'"\s*\}\s*\]?\s*$',
    r"<\|[^|<>\n]{1,40}\|>",
    r"</?s>|<image>|<img>|<im_(?:start|end|patch)>|<unk>|<pad>|<eos>|<bos>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>",
    flags=re.IGNORECASE | re.MULTILINE,
)
_SAYS = (
    r"(?:mentions?|mentioned|describes?|described|states?|stated|says?|said|indicates?|suggests?|notes?|refers?|"
    r"provides?|provided|do|does|don't|doesn't|tells?|impl(?:y|ies)|specif(?:y|ies)|given|above)"
)
_FROM = r"(?:according to|based (?:up)?on|as per|judging by|from|going by|in|given|per|by|as described (?:in|by)|of)"
_TOLD = r"(?:descriptions?|information|details|context|data)"
_OUR = r"(?:the |these |those |this |your |all |both |each |any |one of the |some of the )?"
_GIVEN = r"(?:given |provided |available |above |supplied |image |image's |picture |photo |object |scene )*"
# A caption may be printed in the picture: "the caption under the photo reads ..." stays.
_PRINTED = (
    r"(?! (?:on|at|under|below|above|beneath|across|over|that reads|reads|printed|written|of the (?:sign|poster))\b)"
)
_SOURCES_TOLD = _any(
    rf"\b{_FROM} {_OUR}{_GIVEN}captions?\b{_PRINTED}",
    rf"\b(?:the|these|those|all|both|each|every|one|another|no|any|other|first|second|last|several|given|provided)"
    rf"(?: of the)? {_GIVEN}captions? {_SAYS}\b",
    r"\b(?:provided|given|five|image|four|multiple) captions\b",
    r"\bcaptions? (?:provided|given|above)\b",
    r"\bbounding[- ]box(?:es)?\b",
    r"\b(?:the|these|their|its) (?:labell?ed |annotated )?box (?:positions|data)\b",
    r"\b(?:object|box|image) annotations?\b",
    rf"\b{_FROM} {_OUR}{_GIVEN}annotations?\b",
    rf"\b{_FROM} (?:the |this |these ){_GIVEN}descriptions?\b(?! of the (?!image|picture|scene|photo)| on\b)",
    rf"\b(?:the|this) {_GIVEN}descriptions? {_SAYS}\b",
    rf"\b(?:provided|given|above) (?:textual |image |scene |visual )?{_TOLD}\b",
    rf"\b{_TOLD} (?:that (?:is|was|are|were) |which (?:is|was) )?(?:provided|given)\b",
    r"\b(?:is|are|was|were)(?: not|n't) (?:explicitly |directly |specifically |clearly )?"
    r"(?:mentioned|described|provided)\b(?! (?:on|by)\b)",
    r"\b(?:is|are|was|were)(?: not|n't) (?:explicitly |directly |specifically )?(?:specified|stated)\b(?! on\b)",
)
_PLACES = _any(
    r"[\[(]\s*-?\d*\.\d+\s*,\s*-?\d*\.\d+(?:\s*,\s*-?\d*\.\d+)*\s*[\])]",
    r"(?<![$€£\d.])\b0\.\d{2,}\s*(?:,|and|to|by|x)\s*0\.\d{2,}\b",
    r"\b[xy][12]?\s*[=:]\s*-?\d*\.?\d+",
    r"\b(?<!gps )(?<!map )coordinates? (?:of|are|is|at|for|from)?\s*[\[(:]?\s*-?\d",
    r"\b(?:box|normali[sz]ed|pixel|object) coordinates\b",
    r"\[\s*\d{1,4}\s*,\s*\d{1,4}\s*,\s*\d{1,4}\s*,\s*\d{1,4}\s*\]",
)
_STATEMENT = re.compile(r"(?:there (?:is|are)|the|an?|it|this|these|they|he|she|yes|no|we|i)\b", re.IGNORECASE)
_DANGLING = re.compile(
    r"(?:,|\b(?:the|an?|and|or|of|with|to|in|on|at|is|are|as|for|from|that|which|their|his|her|its|by))\s*$",
    re.IGNORECASE,
)
_TAUTOLOGY = re.compile(r"\W*(?:the|an?) (?P<thing>[\w -]+?) is (?:the|an?) (?P=thing)\W*$", re.IGNORECASE)
"""A whole answer that says of a thing that it is itself: "The star is a star."."""
_WORD = re.compile(r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}]\w+)?")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")

_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (REFUSAL, _REFUSES),
    (LEFT_OVER, _LEFT_OVERS),
    (COORDINATES, _PLACES),
    (SOURCES, _SOURCES_TOLD),
)


def wording_fault(kind: Kind, turn: Turn, captions: Sequence[str]) -> Rejection | None:
    """The first thing wrong with a turn's words; `captions` excuse what the picture itself shows ("a caption").

    The question of a detail is one of the prompts' list ("I would like ..."), not the model's own.
    """
    for name, text in (("question", turn.question), ("answer", turn.answer)):
        if not _WORD.search(text):
            return Rejection(EMPTY, f"the {name} is {text!r}")
    for reason, pattern in _PATTERNS:
        texts = (turn.answer,) if reason == REFUSAL or kind == "detail" else (turn.question, turn.answer)
        for text in texts:
            found = pattern.search(_plain(text))
            if found is not None and not (reason == SOURCES and _is_in_picture(found[0], captions)):
                return Rejection(reason, _quoted(found[0]))
    return _roles(kind, turn) or _shape(kind, turn) or _repetition(turn)


def normalized(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, without marks: what an exact duplicate is judged by."""
    return tuple(_WORD.findall(text.casefold()))


def _plain(text: str) -> str:
    return text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def _quoted(found: str) -> str:
    words = " ".join(found.split())
    return f"{words[:80]!r}"


def _is_in_picture(found: str, captions: Sequence[str]) -> bool:
    """Whether the suspicious noun stands in a caption: then it is something to see."""
    nouns = set(re.findall(r"caption|box|description|annotation|information|text", found.lower()))
    return any(noun in caption.lower() for noun in nouns for caption in captions)


def _roles(kind: Kind, turn: Turn) -> Rejection | None:
    question, answer = turn.question.strip(), turn.answer.strip()
    states = kind != "detail" and "?" not in question and _STATEMENT.match(question) is not None
    asks = answer.endswith("?") and len(_SENTENCE.split(answer)) == 1
    if states and asks:
        return Rejection(SWAPPED, f"the answer asks {_quoted(answer)}")
    if normalized(question) == normalized(answer):
        return Rejection(REPEATS, "the answer is the question")
    if states:
        return Rejection(MALFORMED, f"{_quoted(question)} asks nothing")
    return None


def _shape(kind: Kind, turn: Turn) -> Rejection | None:
    asked, said = len(normalized(turn.question)), len(normalized(turn.answer))
    if asked > _LONGEST_QUESTION:
        return Rejection(MALFORMED, f"a question of {asked} words")
    least = {"conversation": 1, "detail": _DETAIL_WORDS, "reasoning": _REASONING_WORDS}[kind]
    if said < least:
        return Rejection(MALFORMED, f"{kind} in {said} words, at least {least} expected")
    if said >= _DETAIL_WORDS and _DANGLING.search(turn.answer):
        return Rejection(CUT_OFF, f"ends with {_quoted(turn.answer[-30:])}")
    return None


def _repetition(turn: Turn) -> Rejection | None:
    if tautology := _TAUTOLOGY.match(turn.answer):
        return Rejection(REPEATS, _quoted(tautology[0]))
    sentences = Counter(words for part in _SENTENCE.split(turn.answer) if len(words := normalized(part)) >= 4)
    most, times = max(sentences.items(), key=lambda item: item[1], default=((), 0))
    if times >= 3:
        return Rejection(REPEATS, f"{times} times {_quoted(' '.join(most))}")
    words = normalized(turn.answer)
    runs = [words[at : at + 4] for at in range(len(words) - 3)]
    if len(runs) >= 40 and len(set(runs)) < 0.6 * len(runs):
        return Rejection(REPEATS, f"{len(runs)} runs of four words, {len(set(runs))} different")
    return None
