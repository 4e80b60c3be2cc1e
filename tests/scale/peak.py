"""How much memory a computation holds at once, by the allocator's own count."""

from collections.abc import Callable

import torch


def peak_bytes(compute: Callable[[], object], device: str = "cpu") -> int:
    """Count the most bytes of tensors that `compute` held at a time, beyond those that were there before."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        compute()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as run:
        compute()
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
