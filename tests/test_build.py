"""Names become networks: options are typed and checked, equal names are equal networks, grids are checked at build."""

import pytest
import torch

from workbench.attention.cra import CRA
from workbench.backbones import Network
from workbench.build import build, canonical, resolved
from workbench.detection.detector import Detector
from workbench.errors import OutOfRange, UnknownName
from workbench.training.run import Run
from workbench.training.update import Guarded

CANONICAL = {
    "resnet50": "resnet50",
    "cra-resnet50": "cra7-resnet50",
    "cra7-resnet50": "cra7-resnet50",
    "cra[size=3]-resnet20": "cra3-resnet20",
    "cra03[small=refuse]-resnet20": "cra3-resnet20",
    "se[reduction=16]-resnet20": "se-resnet20",
    "se[reduction=016,reduction_first=0]-resnet20": "se-resnet20",
    "se[reduction=8]-resnet20": "se[reduction=8]-resnet20",
    "cbam[bias=true,dims=channel+spatial]-resnet20": "cbam-resnet20",
    "cbam[pool=avg,bias=false]-resnet20": "cbam[bias=false,pool=avg]-resnet20",
    "dca[form=official,pool=avg]-cbam[dims=channel]-resnet20": "dca-cbam[dims=channel]-resnet20",
    "dca[schema=softmax,form=text]-cra3-resnet20": "dca[form=text,schema=softmax]-cra3-resnet20",
    "se-circularnet[padding=circular]": "se-circularnet",
    "circularnet[padding=zeros]": "circularnet[padding=zeros]",
    "mnasnet1_0[momentum=0.00005,width=1]": "mnasnet1_0[momentum=0.00005]",
    "mnasnet1_0[momentum=1,width=0.50]": "mnasnet1_0[momentum=1.0,width=0.5]",
}


def params(name):
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, classes=10).parameters())


@pytest.mark.parametrize("name", CANONICAL)
def test_canonical_is_the_shortest_name_of_the_same_network(name):
    short = str(canonical(name))
    assert short == CANONICAL[name]
    assert str(canonical(short)) == short
    assert params(short) == params(name)
    assert resolved(short) == resolved(name)


def test_resolved_differs_when_an_option_does():
    names = [
        *dict.fromkeys(CANONICAL.values()),
        "cra3[small=repeat]-resnet20",
        "cra1-resnet20",
        "resnet20",
        "cra-resnet20",
    ]
    found = [resolved(name) for name in names]
    assert all(found.count(options) == 1 for options in found)


def test_resolved_writes_defaults_out():
    assert resolved("dca-cra-circularnet") == {
        "backbone": {"word": "circularnet", "padding": "circular"},
        "attention": {"word": "cra", "size": "7", "small": "refuse"},
        "connection": {
            "word": "dca",
            "dims": "",
            "schema": "direct",
            "match": "fc1",
            "reduction": "16",
            "pool": "avg",
            "form": "official",
            "reach": "previous",
            "memory": "attended",
        },
    }


def test_a_size_given_twice_is_refused():
    with pytest.raises(OutOfRange):
        build("cra3[size=5]-resnet20")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("se[reduction=eight]-resnet20", "reduction.*whole number"),
        ("se[reduction=8.0]-resnet20", "whole number"),
        ("se[reduction=-8]-resnet20", "whole number"),
        ("se[reduction=٨]-resnet20", "whole number"),
        ("se[reduction=0]-resnet20", "from 1 to 16"),
        ("se[reduction=17]-resnet20", "from 1 to 16"),
        ("cbam[bias=1]-resnet20", "bias=1.*true or false"),
        ("cbam[dims=depth]-resnet20", "channel, spatial or channel"),
        ("cbam[dims=channel+]-resnet20", "channel, spatial or channel"),
        ("cra0-resnet20", "at least 1"),
        ("cra[small=maybe]-resnet20", "refuse.*repeat"),
        ("se7-resnet20", "takes none"),
        ("dca2-se-resnet20", "takes none"),
        ("dca[dims=spatial]-se-resnet20", "has channel"),
        ("circularnet[padding=reflect]", "circular or zeros"),
        ("cra9999999999-resnet20", "whole number"),
        ("mnasnet1_0[momentum=5e-05]", "must be a number"),
        ("mnasnet1_0[momentum=1.5]", "momentum=1.5; use more than 0, at most 1"),
        ("mnasnet1_0[momentum=0]", "momentum=0.0; use more than 0, at most 1"),
    ],
)
def test_options_out_of_range_are_refused(name, message):
    with pytest.raises(OutOfRange, match=message):
        build(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("se[reducton=8]-resnet20", "option of 'se'.*Did you mean 'reduction'"),
        ("se[site=1]-resnet20", "Known: reduction, reduction_first"),
        ("resnet20[depth=3]", "takes none"),
        ("resnet20[block=1]", "takes none"),
        ("resnet20[classes=3]", "takes none"),
        ("dca[network=x]-se-resnet20", "Known: dims"),
    ],
)
def test_unknown_options_are_named(name, message):
    with pytest.raises(UnknownName, match=message):
        build(name)


@pytest.mark.parametrize(
    ("name", "image_size", "largest"),
    [("cra8-resnet20", 32, 8), ("cra4-resnet20", 16, 4), ("cra7-resnet50", 224, 7), ("cra1-resnet50", 32, 1)],
)
def test_a_grid_larger_than_the_last_map_is_refused_at_build(name, image_size, largest):
    with torch.device("meta"):
        assert build(name, image_size=image_size)
        word, backbone = name.split("-")
        with pytest.raises(OutOfRange, match=f"Use size <= {largest}"):
            build(f"cra{int(word[3:]) + 1}-{backbone}", image_size=image_size)
        assert build(f"cra{largest + 1}[small=repeat]-{backbone}", image_size=image_size)


def test_image_size_defaults_to_the_backbones():
    with torch.device("meta"), pytest.raises(OutOfRange, match="17x17 exceeds the 16x16 map"):
        build("cra17-circularnet")
    assert next(build("cra16-circularnet").attentions()).extract.size == 16


def test_the_seed_decides_the_weights():
    """The first build of a name also checks its grids; that must not draw random numbers."""
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build("cra2[small=repeat]-circularnet", classes=3).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])  # witness


def test_the_class_count_is_the_data_sets():
    network = build("cra2-circularnet", classes=7)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 7)
    assert all(isinstance(block, CRA) for block in network.attentions())


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        (Network, {"maps"}),
        (Detector, {"learn", "find", "outputs"}),
        (Run, {"open", "advance", "measure", "close"}),
        (Guarded, {"_backward"}),
    ],
)
def test_a_subclass_that_leaves_something_out_cannot_be_made(base, wanted):
    assert base.__abstractmethods__ == wanted
    for left_out in wanted:
        given = {name: lambda *_: None for name in wanted - {left_out}} | {"__init__": lambda self: None}
        with pytest.raises(TypeError, match=left_out):
            type("Unfinished", (base,), given)()
    type("Finished", (base,), given | {left_out: lambda *_: None})()  # witness
