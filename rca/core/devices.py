"""Where torch computes, and that it gives the same bytes again."""

import torch


def set_determinism(threads: int) -> None:
    """Make torch give the same bytes for the same input on the same machine.

    Args:
        threads: Number of CPU threads; the last digits depend on it.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling each new tensor guards code that reads what it never wrote. It takes a quarter of a small network's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch


def choose_device() -> torch.device:
    """The first GPU that the job can see, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
