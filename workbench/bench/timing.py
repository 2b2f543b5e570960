"""Side-by-side timing: the cases take turns within one run, so that a busy machine disturbs them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Case = Callable[[], object]
Clock = Callable[[torch.device], float]


def now(device: torch.device) -> float:
    """Seconds on a clock, when everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def computing(device: torch.device) -> float:
    """Seconds that the threads of this process, not its children, have computed so far."""
    return time.process_time()


def interleaved(
    cases: Mapping[str, Case],
    rounds: int,
    device: torch.device,
    clock: Clock = now,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, float]:
    """Median seconds of each case over `rounds` rounds of every case in turn; two rounds before do not count.

    Every other round goes backwards: what a case leaves behind, in caches say, does not meet the same one every time.
    before: called with the name of each case when its turn comes, and not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-2, rounds):
        for name, case in list(cases.items())[:: -1 if number % 2 else 1]:
            before(name)
            started = clock(device)
            case()
            if number >= 0:
                times[name].append(clock(device) - started)
    return {name: statistics.median(found) for name, found in times.items()}


def entry(
    name: str, shape: str, peer: str, times: dict[str, float], ours: str, theirs: str, **more: Any
) -> dict[str, Any]:
    """A line of a bench.  ratio: the peer's time over ours, above 1 where ours is faster."""
    return {
        "name": name,
        "shape": shape,
        "peer": peer,
        "ratio": times[theirs] / times[ours],
        "time_s": times[ours],
        "peer_s": times[theirs],
        **more,
    }


def forward_backward(module: torch.nn.Module, x: Tensor, g: Tensor) -> Case:
    """A training step's share of one module: its output, and all gradients for the output's gradient g."""
    wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
    return lambda: torch.autograd.grad(module(x), wanted, g, allow_unused=True)


def peak_bytes(case: Case, device: torch.device) -> int:
    """The most memory that the case holds at once, beyond what was held before."""
    case()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        case()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        case()
    events = [event for event in recording.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
