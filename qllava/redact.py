"""Secrets out of what is stored or shown: command lines in manifests, logs, errors, tracebacks."""

from __future__ import annotations

import os
import re

HIDDEN = "***"

# Variables whose value is a secret by their name: OPENAI_API_KEY, HF_TOKEN, WANDB_API_KEY, DB_PASSWORD.
_SECRET_NAME = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
# A shorter value is no secret worth the name, and would blank out ordinary words.
_SHORTEST = 8

_PATTERNS = (
    # Keys by their makers' prefixes: OpenAI, Hugging Face, GitHub, GitLab, Slack, Amazon.
    re.compile(r"(?<![\w-])(?:sk-|hf_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA)[\w-]{12,}"),
    # --api-key VALUE, --token=VALUE; not --token-budget.
    re.compile(r"(?i)(?<=\s)(--?[\w-]*(?:key|token|secret|password)(?:=|\s+))(?!-)('[^']*'|\"[^\"]*\"|\S+)"),
    # api_key=VALUE, ?token=VALUE, password: VALUE.
    re.compile(
        r"(?i)((?<![\w-])(?:api[_-]?key|access[_-]?token|token|secret|password)[\"']?[=:][\"']?)([^\s\"'&,;]{6,})"
    ),
    re.compile(r"(?i)(\bbearer\s+)([\w.~+/=-]{8,})"),
    # https://user:password@host
    re.compile(r"(://)([^/\s:@]+:[^/\s@]+)(?=@)"),
)


def redact(text: str) -> str:
    """`text` with everything that is or looks like a key, token or password replaced by `***`."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(lambda match: (match[1] if match.re.groups else "") + HIDDEN, text)
    return text
