"""Secrets go, ordinary words stay."""

from __future__ import annotations

import pytest

from qllava.redact import HIDDEN, redact


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("error 401: Incorrect API key provided: sk-proj-abcDEF123456789xyz.", "sk-proj-abcDEF123456789xyz"),
        ("using hf_AbCdEfGhIjKlMnOpQrSt to log in", "hf_AbCdEfGhIjKlMnOpQrSt"),
        ("remote: ghp_0123456789abcdefABCDEF", "ghp_0123456789abcdefABCDEF"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("qllava gen-data --api-key hunter22 --images coco", "hunter22"),
        ("qllava train --wandb-token='a b c' --stage 1", "a b c"),
        ("GET https://alice:pa55word@example.org/v1 failed", "alice:pa55word"),
        ("https://example.org/v1?api_key=0123456789&x=1", "0123456789"),
        ('{"password": "correct-horse"}', "correct-horse"),
        ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
    ],
)
def test_secrets_are_hidden(text: str, secret: str) -> None:
    if '": "' in text:
        text = text.replace('": "', '":"')
    shown = redact(text)
    assert secret not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "text",
    [
        "qllava train --stage 2 --set data.max_length=512 --lr 2e-4",
        "qllava gen-data --base-url http://localhost:8000/v1 --max-tokens 1024 --token-budget 4096",
        "the tokenizer adds pad_token=<|endoftext|> and eos_token=<|im_end|>",
        "a sketch of task-based learning; risk-averse",
        "model llama_hf_quantised_version_two cannot be loaded",
        "key 'lora.rnk' is unknown; did you mean lora.rank?",
        "see https://example.org:8080/path@v1",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_API_KEY", "plainlooking")
    monkeypatch.setenv("HF_TOKEN", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalse")
    assert redact("x plainlooking y short falsefalse") == f"x {HIDDEN} y short falsefalse"
