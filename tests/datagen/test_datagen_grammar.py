"""English of category names."""

from __future__ import annotations

import pytest

from qllava.datagen.grammar import counted, indefinite, listed, plural, sentence, spelled


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("circle", "circles"),
        ("bus", "buses"),
        ("couch", "couches"),
        ("wine glass", "wine glasses"),
        ("toothbrush", "toothbrushes"),
        ("knife", "knives"),
        ("person", "people"),
        ("fireman", "firemen"),
        ("policewoman", "policewomen"),
        ("human", "humans"),
        ("sheep", "sheep"),
        ("baby", "babies"),
        ("toy", "toys"),
        ("mouse", "mice"),
        ("box", "boxes"),
        ("scissors", "scissors"),
    ],
)
def test_plural(noun: str, expected: str) -> None:
    assert plural(noun) == expected


@pytest.mark.parametrize(
    ("noun", "color", "expected"),
    [
        ("triangle", None, "a triangle"),
        ("apple", None, "an apple"),
        ("umbrella", None, "an umbrella"),
        ("unicorn", None, "a unicorn"),
        ("hourglass", None, "an hourglass"),
        ("tv", None, "a TV"),
        ("circle", "orange", "an orange circle"),
        ("apple", "red", "a red apple"),
        ("scissors", None, "any scissors"),
        ("broccoli", None, "any broccoli"),
    ],
)
def test_article(noun: str, color: str | None, expected: str) -> None:
    assert indefinite(noun, color) == expected


def test_sentences() -> None:
    assert counted(1, "person") == "one person"
    assert counted(13, "person") == "13 people"
    assert counted(2, "tv") == "two TVs"
    assert spelled("tv") == "TV"
    assert [listed(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert sentence(" a dog, ") == "A dog."
    assert sentence("Is it?") == "Is it?"
