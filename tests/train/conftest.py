from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings of data checks stay out of the user's cache."""
    monkeypatch.setenv("QLLAVA_CACHE", str(tmp_path / "cache"))
