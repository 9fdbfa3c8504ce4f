import pytest
import torch

from qllava.errors import UsageError
from qllava.infer.sampling import Sampling, choose


def draws(sampling: Sampling, probability: list[float], count: int = 400) -> list[int]:
    logits = torch.tensor([probability] * count).log()
    return choose(logits, sampling, sampling.generator("cpu")).tolist()


def test_greedy_takes_the_likeliest() -> None:
    assert draws(Sampling(), [0.2, 0.5, 0.3], 3) == [1, 1, 1]


def test_draws_follow_the_probabilities() -> None:
    drawn = draws(Sampling(temperature=1.0), [0.25, 0.75, 0.0])
    assert 0.65 < drawn.count(1) / 400 < 0.85
    assert drawn.count(2) == 0


def test_a_low_temperature_sharpens() -> None:
    assert draws(Sampling(temperature=0.05), [0.3, 0.5, 0.2]).count(1) == 400


def test_top_p_keeps_the_smallest_set_that_holds_it() -> None:
    assert set(draws(Sampling(temperature=1.0, top_p=0.6), [0.1, 0.5, 0.4])) == {1, 2}
    assert set(draws(Sampling(temperature=1.0, top_p=0.49), [0.1, 0.5, 0.4])) == {1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1 is not in 0 to 100"),
        ({"temperature": float("nan")}, "temperature=nan is not in 0 to 100"),
        ({"top_p": 0.0}, "top_p=0 is not above 0 and at most 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 leaves no room"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]
