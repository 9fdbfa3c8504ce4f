"""English for the template teacher: plurals, articles, counts and lists of category names."""

from __future__ import annotations

from collections.abc import Sequence

_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
    "leaf": "leaves",
    "wolf": "wolves",
    "calf": "calves",
    "shelf": "shelves",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
    "aircraft": "aircraft",
    "scissors": "scissors",
    "skis": "skis",
    "broccoli": "broccoli",
    "tv": "tvs",
}
# One box may be half of one of these (a ski), or a handful (broccoli): they are there or not, but are not counted.
_PLURAL_ONLY = frozenset({"scissors", "skis", "glasses", "pants", "jeans", "shorts", "binoculars", "pliers"})
_UNCOUNTABLE = frozenset(
    {"broccoli", "food", "water", "grass", "sand", "snow", "rice", "bread", "furniture", "luggage", "sky", "ground"}
)
_SPELLED = {"tv": "TV", "tvs": "TVs", "suv": "SUV", "suvs": "SUVs"}
# A vowel letter with a consonant sound, and the other way round.
_A_BEFORE_VOWEL = ("uni", "use", "utensil", "ufo", "euro", "one", "ukulele")
_AN_BEFORE_CONSONANT = ("hour", "honest", "heir", "suv")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def countable(noun: str) -> bool:
    """Whether "one NOUN, two NOUNs" makes sense; false for scissors or broccoli."""
    last = noun.rsplit(" ", maxsplit=1)[-1]
    return last not in _PLURAL_ONLY and last not in _UNCOUNTABLE


def plural(noun: str) -> str:
    """`circle` -> `circles`, `wine glass` -> `wine glasses`, `person` -> `people`; the last word carries it."""
    *front, last = noun.split(" ")
    return " ".join((*front, _plural_word(last)))


def article(words: str) -> str:
    """`a` or `an`, by the sound that `words` starts with."""
    first = words.lower()
    if first.startswith(_AN_BEFORE_CONSONANT):
        return "an"
    if first.startswith(_A_BEFORE_VOWEL):
        return "a"
    return "an" if first[:1] in set("aeiou") else "a"


def spelled(noun: str) -> str:
    """The noun as it is written in a sentence: `tv` -> `TV`."""
    return " ".join(_SPELLED.get(word, word) for word in noun.split(" "))


def indefinite(noun: str, color: str | None = None) -> str:
    """`a circle`, `an orange circle`, `any scissors`."""
    words = noun if color is None else f"{color} {noun}"
    return f"{article(words)} {spelled(words)}" if countable(noun) else f"any {spelled(words)}"


def number_word(value: int) -> str:
    """`2` -> `two`; digits above twelve."""
    return _NUMBERS[value] if 0 <= value < len(_NUMBERS) else str(value)


def counted(value: int, noun: str) -> str:
    """`one circle`, `two circles`."""
    return f"{number_word(value)} {spelled(noun if value == 1 else plural(noun))}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def sentence(words: str) -> str:
    """First letter large, one full stop at the end."""
    words = words.strip().rstrip(",;:")
    closed = words if words.endswith((".", "!", "?")) else f"{words}."
    return closed[:1].upper() + closed[1:]


def _plural_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _PLURAL_ONLY or word in _UNCOUNTABLE:
        return word
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in set("aeiou"):
        return f"{word[:-1]}ies"
    for suffix, ending in (("woman", "women"), ("man", "men"), ("person", "people")):
        if word.endswith(suffix) and word not in {"human", "german", "roman"}:
            return word[: -len(suffix)] + ending
    return f"{word}s"
