import random

import pytest

from qllava.errors import DataError
from qllava.infer.engine import Engine
from qllava.infer.pool import AnswerPool, Asked, Progress
from qllava.infer.sampling import Sampling
from qllava.types import text
from tests.infer.test_engine import PICTURES, mixed_prompts, prompt

TOKENS = [12, 3, 7, 1, 12, 5, 9, 2, 12, 4, 6, 12]


def run(pool: AnswerPool, requests: list[Asked], joins: list[int]) -> dict[int, list[Progress]]:
    """Let request i join before step `joins[i]` and go on until all are answered."""
    made: dict[int, list[Progress]] = {}
    step = 0
    while step <= max(joins) or len(pool):
        new = [(key, asked) for key, asked in enumerate(requests) if joins[key] == step]
        if new:
            pool.add(new)
        for progress in pool.step():
            made.setdefault(progress.key, []).append(progress)
        step += 1
    return made


def said(made: list[Progress]) -> str:
    return "".join(progress.text for progress in made)


def settings(index: int) -> Sampling:
    """Every third request samples, with a seed of its own."""
    return Sampling(max_new_tokens=TOKENS[index], temperature=1.3 if index % 3 == 2 else 0.0, top_p=0.9, seed=index)


@pytest.mark.parametrize("seed", range(4))
def test_whoever_joins_when_each_answer_is_the_one_it_gets_alone(engine: Engine, seed: int) -> None:
    prompts = mixed_prompts()
    expected = ["".join(engine.stream(*each, settings(i))) for i, each in enumerate(prompts)]
    pool = AnswerPool(engine)
    requests = [pool.read(*each, settings(i)) for i, each in enumerate(prompts)]
    draw = random.Random(seed)
    joins = [draw.randrange(0, 10) * (seed > 0) for _ in prompts]
    made = run(pool, requests, joins)
    assert [said(made[key]) for key in range(len(prompts))] == expected
    for key, steps in made.items():
        assert [progress.ending for progress in steps[:-1]] == [None] * (len(steps) - 1)
        assert steps[-1].tokens == len(steps) <= TOKENS[key]
        assert steps[-1].ending == "length" if len(steps) == TOKENS[key] else "stop"
    assert len(pool) == 0


def test_a_stop_text_ends_the_answer_before_it(engine: Engine) -> None:
    each = prompt("How many?", PICTURES[0])
    full = "".join(engine.stream(*each, Sampling(max_new_tokens=12)))
    stop = full[3:6]
    pool = AnswerPool(engine)
    asked = pool.read(*each, Sampling(max_new_tokens=12), [stop, "never said"])
    made = run(pool, [asked], [0])[0]
    assert said(made) == full[: full.index(stop)].rstrip()
    assert made[-1].ending == "stop"
    assert made[-1].tokens < 12


def test_those_dropped_leave_the_others_as_they_are(engine: Engine) -> None:
    pool = AnswerPool(engine)
    prompts = mixed_prompts()[:6]
    pool.add([(key, pool.read(*each, Sampling(max_new_tokens=10))) for key, each in enumerate(prompts)])
    answers = dict.fromkeys(range(6), "")
    for _ in range(3):
        for progress in pool.step():
            answers[progress.key] += progress.text
    pool.drop([0, 3, 5, 99])
    assert len(pool) == 3
    while len(pool):
        for progress in pool.step():
            answers[progress.key] += progress.text
    for key in (1, 2, 4):
        assert answers[key] == "".join(engine.stream(*prompts[key], Sampling(max_new_tokens=10)))


def test_no_more_join_than_rows_and_memory_allow(engine: Engine) -> None:
    pool = AnswerPool(engine, max_rows=3)
    asked = pool.read(*prompt("How many?", PICTURES[0]), Sampling(max_new_tokens=4))
    assert pool.fitting([asked] * 9) == 3
    pool.add([(0, asked), (1, asked)])
    assert pool.fitting([asked] * 9) == 1
    # One alone always fits; two do not where the keys and values may take less than theirs.
    narrow = AnswerPool(engine, cache_bytes=1)
    assert narrow.fitting([asked] * 9) == 1
    narrow.add([(0, asked)])
    assert narrow.fitting([asked]) == 0
    # In fp16: 2 layers x 2 heads x 16 numbers x keys and values x 2 bytes = 256 bytes a token.
    cells = 256 * (len(asked.ids) + 4)
    assert AnswerPool(engine, cache_bytes=2 * cells).fitting([asked] * 9) == 2
    assert AnswerPool(engine, cache_bytes=2 * cells - 1).fitting([asked] * 9) == 1


def test_the_cache_shrinks_when_the_longest_leaves(engine: Engine) -> None:
    pool = AnswerPool(engine)
    long = pool.read([{"role": "user", "content": [text("Y " * 60)]}], [], Sampling(max_new_tokens=2))
    short = pool.read([{"role": "user", "content": [text("Y")]}], [], Sampling(max_new_tokens=20))
    pool.add([(0, long), (1, short)])
    for _ in range(3):
        pool.step()
    assert pool._rows is not None
    assert pool._rows.mask.shape == (1, len(short.ids) + 3)
    assert pool._rows.cache.get_seq_length() == len(short.ids) + 3


def test_what_the_model_cannot_hold_is_refused_before_it_is_tokenised(engine: Engine) -> None:
    pool = AnswerPool(engine)
    with pytest.raises(DataError, match="tokens and the model holds 256"):
        pool.read(*prompt("Y " * 256), Sampling())
    with pytest.raises(DataError, match="the conversation has 1000000 characters and the model holds 256 tokens"):
        pool.read(*prompt("Y" * 1_000_000), Sampling())
