"""What redoing a step needs: knowing that memory ran out, and the random numbers as they were."""

from __future__ import annotations

import torch


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a step failed for want of memory: torch's own error, or what CUDA and cuBLAS say when they allocate."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def random_state() -> tuple[torch.Tensor, torch.Tensor | None]:
    """The state of torch's generators, which dropout draws from: the processor's, and the card's."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def restore_random_state(state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    """Go back to what `random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
