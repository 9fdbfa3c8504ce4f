from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.golden import build_tokenizers


@pytest.fixture(scope="session")
def tokenizers(request: pytest.FixtureRequest) -> dict[str, Any]:
    """All tokenizers of `golden.py` by name; SmolLM2's is kept between runs."""
    return build_tokenizers(Path(request.config.cache.mkdir("smollm2")))
