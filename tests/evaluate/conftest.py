"""The teacher server of gen-data's tests serves judges and helpers too."""

from tests.datagen.conftest import server

__all__ = ["server"]
