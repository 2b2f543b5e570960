"""Bad input: whatever a name, a number or a picture asks for is built, or refused by one sentence with the way out."""

import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import cli
from workbench.build import build
from workbench.datasets import layouts
from workbench.errors import OutOfRange, WorkbenchError
from workbench.training.loop import Training
from workbench.training.recipe import Recipe

ORDER = "[detector-][connection-][conv-][attention-]backbone, each once"
REFUSED = {  # a name, and what its refusal tells to do
    "se[reduction=0]-resnet20": "from 1 to 16",
    "se[reduction=17]-resnet20": "from 1 to 16",
    "se[reduction_first=17]-resnet20": "from 1 to 16",
    "cbam[reduction=17]-resnet20": "from 1 to 16",
    "gc[reduction=0]-resnet20": "from 1 to 16",
    "gc[reduction=17]-resnet20": "from 1 to 16",
    "sk[reduction=0]-resnet20": "from 1 to 16",
    "sk[reduction=17]-resnet20": "from 1 to 16",
    "aw[reduction=0]-resnet20": "from 1 to 16",
    "aw[reduction=17]-resnet20": "from 1 to 16",
    "gala[reduction=17]-resnet20": "from 1 to 16",
    "bam[reduction=0]-resnet20": "from 1 to 16",
    "bam[reduction=17]-resnet20": "from 1 to 16",
    "bam[dilation=0]-resnet20": "at least 1",
    "bridge[reduction=17]-resnet20": "from 1 to 16",
    "dca[match=fc2,reduction=0]-se-resnet20": "1 to 32",
    "aw[kernel_reduction=2]-resnet20": "must divide 3",
    "cra9-resnet20": "Use size <= 8",
    "cra0-resnet20": "at least 1",
    "ge3-resnet20": "a power of two",
    "ge0-resnet20": "theta=false",
    "dca-resnet50": "for example dca-se-resnet50",
    "se-se-resnet20": ORDER,
    "dca-dca-se-resnet20": ORDER,
    "aw-aw-resnet20": ORDER,
    "aw-sk-resnet20": ORDER,
    "se-aw-resnet20": ORDER,
    "se[size=7]-resnet20": "Known: reduction, reduction_first",
    "cra[reduction=4]-resnet20": "Known: size, small",
    "aw[dims=channel]-resnet20": "Known: input_reduction, ",
    "resnet20[attention=se]": "it takes none",
    "se7-resnet20": "write 'se'",
    "bam-vgg16": "vgg16 has 'attention'",
    "sk-vgg16": "vgg16 has 'attention'",
    "aw-circularnet": "circularnet has 'attention'",
    "bridge[form=direct]-mobilenetv2": "mobilenetv2 has 'attention', 'conv'",
    "bridge-circularnet": "no earlier ones",
    "dca-bam-resnet20": "Use se, cra, cbam",
    "sk-mobilenetv1": "needs a 3x3 one",
    "retinanet-cra26-resnet50": "Use size <= 25",
    "retinanet[anchor=0]-resnet20": "at least 1",
    "fasterrcnn[fpn=dca-se]-resnet20": "use for example aw",
    "cascadercnn[finest=8]-resnet20": "it has 1, 2, 4",
    "retinanet-bridge[form=direct]-resnet20": "bridge[form=gate]",
}


@pytest.fixture(autouse=True)
def handlers():
    """The command sets a signal handler; the process gets its own back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def refusal(action):
    """The sentence with which `action` is refused."""
    with torch.device("meta"), pytest.raises(WorkbenchError) as caught:
        action()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_name_is_one_sentence_in_python_and_on_the_command_line(name, capsys):
    sentence = refusal(lambda: build(name))
    assert REFUSED[name] in sentence
    assert cli.main(["count", name]) == 2
    assert capsys.readouterr() == ("", f"workbench: {sentence}\n")


@pytest.mark.parametrize(
    "name", ["se[reduction=16]-resnet20", "cra8-resnet20", "aw-se-resnet20", "sk-mobilenetv2", "retinanet-resnet20"]
)
def test_a_good_name_is_not(name, capsys):
    """The witness of the test above."""
    assert cli.main(["count", name]) == 0
    said = capsys.readouterr()
    assert name in said.out and not said.err


@pytest.mark.parametrize(
    ("numbers", "allowed"),
    [
        ({"image_size": 0}, "at least 1"),
        ({"image_size": -1}, "at least 1"),
        ({"image_size": 8}, "made for 32 px"),
        ({"classes": 0}, "at least 1"),
        ({"classes": -10}, "at least 1"),
    ],
    ids=str,
)
def test_bad_numbers_are_refused(numbers, allowed):
    assert allowed in refusal(lambda: build("vgg16", **numbers))
    with torch.device("meta"):
        assert build("vgg16", **{key: 32 for key in numbers})  # witness


def test_pictures_need_not_be_square_but_must_hold_the_grid():
    """cra4-resnet20 halves its map twice: 40x56 pictures end in 10x14, 32x12 ones in 8x3."""
    with torch.device("meta"):
        network = build("cra4-resnet20", 10).eval()
        assert network(torch.empty(2, 3, 40, 56)).shape == (2, 10)
        assert network(torch.empty(2, 3, 32, 16)).shape == (2, 10)
        sentence = refusal(lambda: network(torch.empty(2, 3, 32, 12)))
        assert "4x4 exceeds the 8x3 map" in sentence and "Use size <= 3" in sentence
        assert "5x2 map is smaller" in refusal(lambda: build("aw-resnet20").eval()(torch.empty(1, 3, 9, 4)))


def training(name, batch, parts=1):
    split, recipe = layouts.make(4, seed=0), Recipe(batch=batch, epochs=1, lr=0.1, accumulate=parts)
    return Training(build(name, len(split.classes)), split, split, recipe, 0, "cpu")


def loss(training):
    training.step()
    return training.look()


@pytest.mark.parametrize("name", ["sk[reduction=4]-resnet20", "bam-resnet20", "bridge-resnet20", "dca-cbam-resnet20"])
def test_one_picture_a_batch_is_refused_where_bn_would_see_one_value(name):
    with pytest.raises(OutOfRange, match=r"Batch 1 on 16x16 pictures.*Use a batch of at least 2") as caught:
        training(name, 1)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    with pytest.raises(OutOfRange, match=r"Batch 4 in 4 parts on 16x16 pictures.*Use parts of at least 2"):
        training(name, 4, parts=4)
    assert loss(training(name, 2)) > 0 and loss(training(name, 4, parts=2)) > 0  # witness: it is the part


@pytest.mark.parametrize("name", ["se-circularnet", "aw-resnet20", "dca-se-resnet20"])
def test_one_picture_a_batch_trains_elsewhere(name):
    assert loss(training(name, 1)) > 0


def test_a_grid_too_large_is_not_blamed_on_the_batch():
    for batch in (1, 2):
        with pytest.raises(OutOfRange, match=r"CRA grid 5x5 exceeds the 4x4 map") as caught:
            training("cra5-resnet20", batch).step()
        assert "batch" not in str(caught.value)


NUMBERS = ("0", "1", "2", "3", "4", "16", "17", "9999")
OPTIONS = {  # of every word, with values in and out of range; the shortest names are the likeliest to be networks
    "aw": {
        "reduction": NUMBERS,
        "input_reduction": NUMBERS,
        "output_reduction": NUMBERS,
        "kernel_reduction": ("0", "3", "2"),
        "shared": ("true", "false"),
        "residual": ("false", "no"),
        "small": ("repeat", "refuse"),
    },
    "sk": {"reduction": NUMBERS},
    "bam": {"reduction": NUMBERS, "dilation": NUMBERS},
    "bridge": {"form": ("direct", "gate"), "reduction": NUMBERS, "bottleneck": ("false", "true")},
    "cbam": {"dims": ("channel", "spatial", "spatial+channel", "+"), "pool": ("avg", "max"), "reduction": NUMBERS},
    "cra": {"size": NUMBERS[:6], "small": ("repeat", "refuse", "")},
    "gala": {"reduction": NUMBERS},
    "gc": {"reduction": NUMBERS},
    "ge": {"size": NUMBERS, "theta": ("false", "true", "False")},
    "se": {"reduction": NUMBERS, "reduction_first": NUMBERS},
    "dca": {
        "dims": ("channel", "spatial", "weight", "branch"),
        "schema": ("direct", "weighted", "softmax", "none"),
        "match": ("fc1", "fc2"),
        "reduction": NUMBERS,
        "pool": ("avg", "max", "both"),
        "form": ("text", "official"),
        "reach": ("dense", "tree"),
        "memory": ("attention", "attended"),
    },
    "circularnet": {"padding": ("zeros", "circular", "reflect")},
}
FOREIGN = ("reduction=4", "site=1", "network=se[reduction=2]-resnet20", "size=-1", "[]", "a=b=c", "dims=é", "theta=\n")
SLOTS = (("", "dca"), ("", "", "aw", "sk"), ("", *(word for word in OPTIONS if word not in ("dca", "aw", "sk"))))
BACKBONES = ("resnet20", "circularnet", "plain6", "shufflenet", "mobilenetv1")


@st.composite
def part(draw, word):
    """A word with up to two options of its own and sometimes a size or what no word takes."""
    known = OPTIONS.get(word, {})
    keys = draw(st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True)) if known else []
    options = [f"{key}={draw(st.sampled_from(known[key]))}" for key in keys]
    if draw(st.integers(0, 15)) == 15:
        options.append(draw(st.sampled_from(FOREIGN)))
    sized = draw(st.integers(0, 15)) > (7 if "size" in known and "size" not in keys else 14)
    return word + (str(draw(st.integers(0, 20))) if sized else "") + (f"[{','.join(options)}]" if options else "")


@st.composite
def names(draw):
    """Parts in the order of the grammar; in one name of four they are shuffled, doubled, nested or cut."""
    words = [word for slot in SLOTS if (word := draw(st.sampled_from(slot)))]
    parts = [draw(part(word)) for word in (*words, draw(st.sampled_from(BACKBONES)))]
    mutation = draw(st.integers(0, 15))
    if mutation == 15:
        parts = draw(st.permutations(parts))
    elif mutation == 14:
        parts.insert(0, draw(st.sampled_from(parts)))
    elif mutation == 13:
        parts[0] += f"[inner={'-'.join(parts)}]"
    elif mutation == 12:
        return "-".join(parts)[draw(st.integers(0, 5)) : draw(st.integers(6, 30))]
    return "-".join(parts)


def outcome(name, side):
    """None if the network of this name is built and classifies two pictures; else the sentence that refused it."""
    try:
        network = build(name, 3, side)
    except WorkbenchError as error:
        assert error.exit_code == 2 and "\n" not in str(error)
        return str(error)
    side = side or network.image_size
    with torch.no_grad():
        assert network.eval()(torch.zeros(2, 3, side, side)).shape == (2, 3)
    return None


@settings(deadline=None, max_examples=60)
@given(names(), st.sampled_from((None, 1, 8, 16, 33)))
def test_a_name_is_a_network_or_one_sentence(name, side):
    outcome(name, side)  # not on the meta device, where some numbers do nothing that would fail elsewhere


def test_both_outcomes_and_no_third(monkeypatch):
    """The witness of the test above."""
    assert outcome("dca-se[reduction=4]-resnet20", 8) is None
    assert "from 1 to 16" in outcome("dca-se[reduction=0]-resnet20", 8)
    monkeypatch.setattr("workbench.attention.se.bottleneck", lambda channels, reduction: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        outcome("se[reduction=8]-resnet20", 8)
