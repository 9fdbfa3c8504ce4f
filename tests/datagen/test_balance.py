"""Concept balancing: the published rule against a slow twin, the cap, and what counts as a noun phrase."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qllava.datagen.balance import Selection, balanced
from qllava.datagen.noun_phrases import noun_phrases
from qllava.errors import DataError, UsageError

# A few nouns, some far more frequent than others, so that both limits are met.
NOUNS = ("dog", "cat", "red car", "tall tree", "house", "boat", "old man")
CAPTIONS = st.lists(
    st.lists(st.integers(0, 20).map(lambda n: NOUNS[min(n, 20 - n) % len(NOUNS)]), max_size=3).map(
        lambda nouns: " and ".join(f"a {noun}" for noun in nouns)
    ),
    max_size=40,
)


def slow(captions: dict[str, str], target: int | None, least: int, most: int, seed: int) -> tuple[list[str], int, int]:
    """The rule as a person would do it by hand: (ids, concepts, captions without any)."""
    held = {identity: set(filter(None, text.replace("a ", "").split(" and "))) for identity, text in captions.items()}
    concepts = []
    for noun in sorted(set().union(*held.values())):
        number = sum(noun in nouns for nouns in held.values())
        if number >= least:
            concepts.append((number, noun))
    pool: list[str] = []
    for _, noun in sorted(concepts):
        holding = [identity for identity, nouns in held.items() if noun in nouns]
        holding.sort(key=lambda identity: hashlib.sha256(f"{seed}\0{noun}\0{identity}".encode()).hexdigest()[:16])
        for identity in holding[:most]:
            if identity not in pool:
                pool.append(identity)
    names = {noun for _, noun in concepts}
    without = sum(not nouns & names for nouns in held.values())
    return (pool if target is None else pool[:target]), len(concepts), without


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    texts=CAPTIONS,
    target=st.none() | st.integers(1, 12),
    least=st.integers(1, 4),
    more=st.integers(0, 6),
    seed=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_the_rule_equals_its_slow_twin(
    texts: list[str], target: int | None, least: int, more: int, seed: int, order: object
) -> None:
    captions = {f"id{number}": text for number, text in enumerate(texts)}
    given_order = list(captions.items())
    order.shuffle(given_order)  # type: ignore[attr-defined]
    selection = balanced(given_order, target, least=least, most=least + more, seed=seed)
    ids, concepts, without = slow(captions, target, least, least + more, seed)
    assert list(selection.ids) == ids
    assert (selection.captions, selection.concepts, selection.without_concept) == (len(texts), concepts, without)
    uncapped = balanced(given_order, None, least=least, most=least + more, seed=seed)
    assert selection.ids == uncapped.ids[:target]
    assert selection.over_target == len(uncapped.ids) - len(selection.ids)


def frequent() -> dict[str, str]:
    """300 dogs, 5 owls, 2 emus."""
    animals = ["dog"] * 300 + ["owl"] * 5 + ["emu"] * 2
    return {f"{animal}{number}": f"a {animal} by the sea" for number, animal in enumerate(animals)}


def test_rare_phrases_are_skipped_and_frequent_ones_drawn() -> None:
    captions = frequent()
    selection = balanced(captions.items(), seed=1, least=3, most=100)
    owls = [identity for identity in selection.ids if identity.startswith("owl")]
    assert set(selection.ids[:5]) == {identity for identity in captions if identity.startswith("owl")} == set(owls)
    assert 100 <= len(selection.ids) <= 205  # 100 dogs, and the 100 of "sea", which are mostly dogs too
    assert (selection.captions, selection.phrases, selection.concepts, selection.covered) == (307, 4, 3, 3)
    assert selection.without_concept == 0
    other = balanced(captions.items(), seed=2, least=3, most=100)
    assert set(other.ids) != set(selection.ids)
    assert balanced(captions.items(), seed=1) == selection


def test_the_cap_keeps_rare_concepts_first() -> None:
    selections = [balanced(frequent().items(), target, seed=1) for target in (3, 50, 100, None)]
    assert [len(selection.ids) for selection in selections[:3]] == [3, 50, 100]
    assert all(identity.startswith("owl") for identity in selections[0].ids)
    assert all(later.ids[: len(earlier.ids)] == earlier.ids for earlier, later in pairwise(selections))
    assert [selection.covered for selection in selections] == [2, 3, 3, 3]


def test_nothing_to_choose_from() -> None:
    assert balanced([], 5, seed=1) == Selection((), 0, 0, 0, 0, 0, 0)
    assert balanced([("a", "a dog"), ("b", "")], seed=1) == Selection((), 2, 1, 0, 0, 2, 0)


def test_numbers_that_cannot_work() -> None:
    with pytest.raises(UsageError, match="--target 0 keeps nothing"):
        balanced([], 0, seed=1)
    with pytest.raises(UsageError, match="most=2 is less than least=3"):
        balanced([], seed=1, most=2)
    with pytest.raises(DataError, match="caption id 'a' comes twice"):
        balanced([("a", "x"), ("b", "x"), ("a", "y")], seed=1)


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("A dog sits on the sandy beach.", ("dog", "sandy beach")),
        ("Two dogs running on the beach", ("dogs", "beach")),
        ("the old brick building and its tall clock tower", ("old brick building", "tall clock tower")),
        ("a man riding a red bicycle past 3 parked cars", ("man", "red bicycle", "parked cars")),
        ("swimming pool with wooden chairs, umbrellas", ("swimming pool", "wooden chairs", "umbrellas")),
        ("car parked near a fire hydrant", ("car", "fire hydrant")),
        ("the woman\N{RIGHT SINGLE QUOTATION MARK}s hat; a woman's hat", ("woman hat",)),
        ("a t-shirt and a t-shirt", ("t-shirt",)),
        ("She is there with him.", ()),
        ("", ()),
        ("a grand new central city station clock and a bus stop", ("bus stop",)),
    ],
)
def test_noun_phrases(caption: str, phrases: tuple[str, ...]) -> None:
    assert noun_phrases(caption) == phrases
