from __future__ import annotations

from collections import Counter

import pytest

from qllava.datagen.shard import in_shard, parse
from qllava.errors import UsageError


@pytest.mark.parametrize(("text", "wanted"), [("1/1", (1, 1)), ("2/4", (2, 4)), (" 10/10 ", (10, 10))])
def test_shares(text: str, wanted: tuple[int, int]) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1.0/2", "01/4"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="is no share; write i/n with i from 1 to n, for example 2/4") as caught:
        parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("of", [1, 2, 7])
def test_every_id_is_in_exactly_one_share_of_about_the_same_size(of: int) -> None:
    ids = [f"train2017/{n:012d}" for n in range(2100)]
    shares = Counter(index for identity in ids for index in range(1, of + 1) if in_shard(identity, index, of))
    assert sum(shares.values()) == len(ids)
    assert all(0.8 < shares[index] * of / len(ids) < 1.2 for index in range(1, of + 1))


def test_the_share_of_an_id_is_fixed_for_ever() -> None:
    ids = ("train2017/000000000001", "a", "\N{SNOWMAN}")
    assert [next(i for i in range(1, 5) if in_shard(name, i, 4)) for name in ids] == [2, 3, 4]
