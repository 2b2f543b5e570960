"""Where the time of our training step goes: its parts, and the operators that take most."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from workbench.training.loop import Training

WARM, OPERATORS = 3, 10
DATA, FORWARD, APPLY, OPTIMIZER = "data", "forward", "guard and optimizer", "Optimizer.step#SGD.step"
RANGES = ("step", DATA, FORWARD, APPLY, OPTIMIZER)


def breakdown(name: str, training: Training, steps: int) -> Iterator[dict[str, Any]]:
    """Seconds and percent of a step by torch.profiler, for its parts and for single operators.

    On a CPU of the whole step; on a GPU of its kernels alone, which are those that a recorded step replays: one by one,
    since the profiler cannot tell a graph's kernels apart.
    """
    opened(training)
    for _ in range(WARM):
        training.step()
    training.look()
    gpu = training.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as recording:
        for _ in range(steps):
            with record_function("step"):
                training.step()
        training.look()
    events: Any = [event for event in recording.events() or () if event.device_type == DeviceType.CPU]
    own: defaultdict[str, float] = defaultdict(float)
    for event in events:
        own[event.name] += seconds(event, gpu) / steps
    total = sum(own.values())
    if not total:
        raise RuntimeError("The profiler saw no kernel on this device.")
    whole = {part: sum(under(event, gpu) for event in events if event.name == part) / steps for part in RANGES}
    for part, duration in parts(whole, total).items():
        yield {"name": f"{name} step", "part": part, "time_s": duration, "percent": 100 * duration / total}
    calls = Counter(event.name for event in events)
    operators = sorted(own.keys() - set(RANGES), key=lambda part: -own[part])[:OPERATORS]
    for part, duration in ((part, own[part]) for part in operators):
        share = {"time_s": duration, "percent": 100 * duration / total, "calls": round(calls[part] / steps)}
        yield {"name": f"{name} operator", "part": part, **share}


def seconds(event: Any, gpu: bool) -> float:
    """What one event took by itself: of the CPU, or the kernels that it started; a named range has a twin there."""
    if not gpu:
        return event.self_cpu_time_total / 1e6
    return sum(kernel.duration for kernel in event.kernels if kernel.name != event.name) / 1e6


def under(event: Any, gpu: bool) -> float:
    """What one event took with all that happened within it."""
    return seconds(event, gpu) + sum(under(child, gpu) for child in event.cpu_children)


def parts(whole: dict[str, float], total: float) -> dict[str, float]:
    """Part -> seconds; the backward is what the others leave, for on a GPU its kernels are started elsewhere."""
    optimizer = whole[OPTIMIZER]
    found = {"data": whole[DATA], "forward": whole[FORWARD], "guard": whole[APPLY] - optimizer, "optimizer": optimizer}
    return found | {"loss, backward, rest": total - sum(found.values()), "all": total}


def opened(training: Training) -> None:
    """Name the parts of the run's step, and start its kernels one by one."""
    update: Any = training.update
    update.batches.batch = named(DATA, update.batches.batch)
    update.forward = named(FORWARD, update.forward)
    update._apply = named(APPLY, update._apply)
    update.recorder = None


def named(name: str, function: Callable) -> Callable:
    def call(*given: Any) -> Any:
        with record_function(name):
            return function(*given)

    return call
