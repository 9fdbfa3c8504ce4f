from types import SimpleNamespace

from qllava.infer.batches import cache_bytes_per_token, plan_batches, shared_prefix

A, B, NONE = ("a",), ("b",), ()


def test_prompts_about_one_picture_stay_together() -> None:
    batches = list(plan_batches([A, B, A, NONE, B], [5, 5, 4, 3, 5], max_rows=3, max_tokens=10**6))
    assert batches == [[3], [2, 0, 1], [4]]


def test_the_longest_row_counts_for_all() -> None:
    assert list(plan_batches([A] * 4, [4, 4, 4, 10], max_rows=9, max_tokens=12)) == [[0, 1, 2], [3]]
    assert list(plan_batches([A, A], [50, 50], max_rows=9, max_tokens=12)) == [[0], [1]]
    assert list(plan_batches([], [], max_rows=9, max_tokens=12)) == []


def test_a_prefix_holds_every_image_token_and_leaves_each_prompt_a_token() -> None:
    image = 9
    assert shared_prefix([[1, 9, 9, 2, 3], [1, 9, 9, 2, 4, 5]], image) == 4
    assert shared_prefix([[1, 9, 9, 2], [1, 9, 9, 2]], image) == 3
    assert shared_prefix([[1, 9, 9], [1, 9, 9]], image) == 0  # the last image token would be left out
    assert shared_prefix([[1, 2, 9], [1, 3, 9]], image) == 0
    assert shared_prefix([[1, 2], [3, 2]], image) == 0


def test_cache_bytes_of_known_models() -> None:
    llama_7b = SimpleNamespace(num_hidden_layers=32, num_attention_heads=32, hidden_size=4096)
    assert cache_bytes_per_token(llama_7b) == 524_288
    smollm2 = SimpleNamespace(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576)
    assert cache_bytes_per_token(smollm2) == 23_040
