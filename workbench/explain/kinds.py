"""Which kinds of attention a network of a given name has to show, and what its T means; no torch here."""

from collections.abc import Iterable
from typing import NamedTuple

from workbench import names

CHANNEL, SPATIAL = ("cra", "se", "cbam", "ge", "bam", "gala", "gc", "bridge"), ("cbam", "bam", "gala", "ge")
NO_GATE = {
    "gc": "GC's T is an added term, no gate: X' = X + T at every position, and it can have any sign.",
    "bam": "BAM's T adds to what is there, X' = X (1 + T): at 0 the map passes as it is.",
    "gala": "GALA's gate is a tanh, from -1 to 1: a negative one turns the sign of the map.",
    "bridge": "A bridge in its form `direct` makes the classifier's descriptor; its T is no gate.",
}


class Kind(NamedTuple):
    """A way to look: title, words, what of a network it shows, the modules that have that, one to train."""

    title: str
    words: str
    what: str
    modules: tuple[str, ...]
    example: str
    function: str  # in maps.py


KINDS = {
    "curves": Kind(
        "Channels",
        "The gate of every channel, a panel a block (stage.block), a line a picture: CRA Fig. 8. Where lines "
        "part, the block treats the pictures differently; near 0 it drops the channel, near 1 it keeps it.",
        "channel attention",
        CHANNEL,
        "se-resnet8",
        "channel_attention",
    ),
    "heat": Kind(
        "All blocks",
        "The gate of every channel, mean over the pictures, a row a block: the curves of CRA Fig. 8 at one glance.",
        "channel attention",
        CHANNEL,
        "se-resnet8",
        "channel_attention",
    ),
    "difference": Kind(
        "Two pictures apart",
        "The gates of the first picture minus those of the second: above 0 the block opens the channel more "
        "for the first. CRA Fig. 8 lays the same curves over each other.",
        "channel attention",
        CHANNEL,
        "se-resnet8",
        "channel_attention",
    ),
    "spatial": Kind(
        "Where",
        "Where each block looks: its gate of every position over the picture, as CBAM has it; BAM, GALA and "
        "GE gate every value, and the mean over channels is shown.",
        "spatial attention",
        SPATIAL,
        "cbam-resnet8",
        "spatial_attention",
    ),
    "templates": Kind(
        "CRA templates",
        "What a channel of a CRA block looks for, and where. Pooling and weighing are linear (CRA Eq. 4-5), "
        "so one weight a position says both: red opens the gate where the map is positive, blue closes it.",
        "CRA block",
        ("cra",),
        "cra4-resnet8",
        "",
    ),
    "branches": Kind(
        "SK branches",
        "SK gives every channel a mixture of two branches, a 3x3 and a dilated one that sees 5x5; the two "
        "shares sum to 1. At 0.5 it does not choose.",
        "selective kernel",
        ("sk",),
        "sk-resnet8",
        "branch_shares",
    ),
    "taps": Kind(
        "AW kernels",
        "AW gives every picture a kernel of its own: the gate A of each output and tap makes K + A K of the "
        "kernel K (AW Eq. 6). At 0 the tap stays as it is, at 1 it counts twice.",
        "AW-convolution",
        ("aw",),
        "aw-resnet8",
        "kernel_attention",
    ),
}


def modules(model: str) -> set[str]:
    """The words of its attention and of what stands for its convolutions: {"aw", "se"} of aw-se-resnet20."""
    name = names.parse(model)
    return {part.word for part in (name.conv, name.attention) if part}


def has(model: str, kind: str) -> bool:
    """Whether a network of this name has what the kind shows.  A connected CRA reads more than its map."""
    return bool(modules(model) & {*KINDS[kind].modules}) and not (kind == "templates" and names.parse(model).connection)


def missing(model: str, kind: str, others: Iterable[str]) -> str:
    """One sentence: that the network has it not, and which of the others to choose instead, or what to train."""
    reason = f"{model} has no {KINDS[kind].what}"
    if kind == "templates" and "cra" in modules(model):
        reason = f"The CRA blocks of {model} also read what earlier blocks attended, which no template shows"
    fitting = next((other for other in others if has(other, kind)), None)
    if fitting:
        return f"{reason}; choose {fitting} instead."
    return f"{reason}; run `workbench train {KINDS[kind].example} --data layouts --recipe smoke`, and choose that."


def no_gate(model: str) -> str:
    """What T is where it is no gate from 0 to 1; else nothing."""
    return " ".join(NO_GATE[word] for word in sorted(modules(model)) if word in NO_GATE)
