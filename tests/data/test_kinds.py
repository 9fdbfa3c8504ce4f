from __future__ import annotations

import re

import pytest

from qllava.data.kinds import parse_kinds, select_kinds
from qllava.errors import DataError, UsageError
from qllava.types import Conversation


def sample(identity: str, kind: str | None) -> Conversation:
    return Conversation(identity, (), (), kind)


SAMPLES = [
    *(sample(f"c{n}", "conversation") for n in range(40)),
    *(sample(f"d{n}", "detail") for n in range(20)),
    *(sample(f"r{n}", "reasoning") for n in range(100)),
    sample("x", None),
]


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("conversation", {"conversation": 1.0}),
        ("conversation, detail=5%,reasoning=0.1", {"conversation": 1.0, "detail": 0.05, "reasoning": 0.1}),
        ("detail=100%", {"detail": 1.0}),
    ],
)
def test_kinds_and_shares(text: str, shares: dict[str, float]) -> None:
    assert parse_kinds(text) == shares


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--kinds '' has an empty entry"),
        ("a,,b", "--kinds 'a,,b' has an empty entry"),
        ("a,a=5%", "--kinds 'a,a=5%' names a twice"),
        ("a=0%", "'0%' is no share; write 5% or 0.05"),
        ("a=101%", "'101%' is no share"),
        ("a=5", "'5' is no share"),
        ("a=", "'' is no share"),
        ("a=nan", "'nan' is no share"),
    ],
)
def test_what_is_no_kind_or_share(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_kinds(text)


def test_samples_of_the_kinds_in_their_order() -> None:
    selection = select_kinds(SAMPLES, {"detail": 1.0, "conversation": 1.0})
    assert [SAMPLES[i].id for i in selection.indices] == [c.id for c in SAMPLES[:60]]
    assert len(selection.indices) == 60
    assert selection.left_out == 101
    assert selection.sentence() == "detail 20, conversation 40"


def test_shares_are_the_same_each_time_and_nested() -> None:
    def ids(share: float) -> set[str]:
        return {SAMPLES[i].id for i in select_kinds(SAMPLES, {"reasoning": share}).indices}

    assert (len(ids(0.05)), len(ids(0.1)), len(ids(0.001))) == (5, 10, 1)
    assert ids(0.001) < ids(0.05) < ids(0.1) < ids(1.0)
    assert ids(0.05) != {f"r{n}" for n in range(5)}
    backwards = list(reversed(SAMPLES))
    selection = select_kinds(backwards, {"conversation": 1.0, "detail": 0.05, "reasoning": 0.1})
    assert selection.taken == {"conversation": (40, 40), "detail": (1, 20), "reasoning": (10, 100)}
    assert selection.sentence() == "conversation 40, detail 1 of 20, reasoning 10 of 100"
    assert {backwards[i].id for i in selection.indices if backwards[i].kind == "reasoning"} == ids(0.1)


def test_unknown_kinds_and_data_without_any() -> None:
    with pytest.raises(UsageError, match="--kinds complex is not in the data; it has conversation, detail, reasoning"):
        select_kinds(SAMPLES, {"complex": 1.0})
    with pytest.raises(
        DataError, match=r"--kinds needs data that marks kinds .* and this has none; name one of LLaVA's"
    ):
        select_kinds(SAMPLES[-1:], {"detail": 1.0})
