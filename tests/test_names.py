"""The grammar of model names: parse and str are inverse, and whatever is malformed is refused with the way out."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import OutOfRange, UnknownName, WorkbenchError
from workbench.names import ATTENTIONS, BACKBONES, CONNECTIONS, CONVS, DETECTORS, ModelName, Part, parse, split_list

ROOT = Path(__file__).resolve().parents[1]

keys = st.text("abz09_", max_size=4).map("k".__add__)
plain = st.text("azAZ019_.:/é", min_size=1, max_size=6)
lists = st.lists(plain, min_size=1, max_size=3).map("+".join)


def parts(words, values, sizes):
    options = st.dictionaries(keys, values, max_size=3).map(lambda found: tuple(found.items()))
    return st.builds(Part, st.sampled_from(sorted(words)), sizes, options)


def own_class(values):
    """A class of one's own stands where an attention stands, and has no digits of its own."""
    return parts(["eca:ECA", "my.modules:Gate7"], values, st.none())


def names(values):
    sizes = st.none() | st.integers(0, 99)
    attention = parts(ATTENTIONS, values, sizes) | own_class(values)
    conv, detector = parts(CONVS, values, sizes), st.none() | parts(DETECTORS, values, st.none())
    backbone, connection = parts(BACKBONES, values, st.none()), parts(CONNECTIONS, values, sizes)
    unconnected = st.builds(ModelName, backbone, st.none() | attention, st.none(), st.none() | conv, detector)
    connected = st.builds(ModelName, backbone, attention, connection, st.none() | conv, detector)
    return unconnected | connected | st.builds(ModelName, backbone, st.none(), connection, conv, detector)


def bracketed(name):
    """A name as an option's value: `fpn=se[reduction=8]-resnet20`."""
    return str(name) if name.backbone.options else f"{name}[key=value]"


values = lists | names(lists | names(lists).map(bracketed)).map(bracketed)


@settings(deadline=None)
@given(names(values))
def test_parse_is_the_inverse_of_str(name):
    assert parse(str(name)) == name
    other = Part("resnet18" if name.backbone.word != "resnet18" else "resnet34")
    assert parse(str(dataclasses.replace(name, backbone=other))) != name  # witness


@settings(deadline=None)
@given(names(plain), st.randoms())
def test_writing_a_name_in_another_order_changes_nothing(name, random):
    def shuffled(part):
        options = [f"{key}={value}" for key, value in part.options]
        random.shuffle(options)
        return str(Part(part.word, part.size)) + (f"[{','.join(options)}]" if options else "")

    text = "-".join(
        shuffled(part) for part in (name.detector, name.connection, name.conv, name.attention, name.backbone) if part
    )
    assert str(parse(text)) == str(parse(str(parse(text)))) == str(name)


def test_what_a_name_says():
    assert parse("dca[pool=max,dims=spatial]-cra07[small=repeat]-resnet50") == ModelName(
        Part("resnet50"),
        Part("cra", 7, (("small", "repeat"),)),
        Part("dca", None, (("dims", "spatial"), ("pool", "max"))),
    )
    assert split_list("channel+spatial") == ["channel", "spatial"]
    nested = parse("se[inner=dca-cbam[dims=channel,pool=avg]-resnet20]-resnet50").attention
    assert nested.options == (("inner", "dca-cbam[dims=channel,pool=avg]-resnet20"),)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cbma-resnet50", "attention 'cbma'. Did you mean 'cbam'"),
        ("sse-resnet50", "Did you mean 'se'"),
        ("dac-se-resnet50", "Did you mean 'dca'"),
        ("resnet51", "backbone 'resnet51'. Did you mean 'resnet"),
        ("se-circlenet", "Did you mean 'circularnet'"),
        ("xyz-resnet50", "Known: aw, bam, bridge, c"),
        ("resnet50-se", "backbone 'se'"),
        ("se-resnet507", "Did you mean"),
        ("se", "backbone 'se'"),
        ("resnet9x", "backbone"),
    ],
)
def test_unknown_words_suggest_their_neighbours(text, hint):
    with pytest.raises(UnknownName) as caught:
        parse(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "-resnet50", "se-", "se--resnet50", " se-resnet50", "SE-resnet50", "se-resnet50\n", "sé-resnet50"),
        *(
            "se[-resnet50",
            "se]-resnet50",
            "se[reduction=8-resnet50",
            "se[reduction=8]]-resnet50",
            "se]reduction=8[-resnet50",
        ),
        *(
            "se[]-resnet50",
            "se[reduction]-resnet50",
            "se[=8]-resnet50",
            "se[reduction=]-resnet50",
            "se[a=b=c]-resnet50",
        ),
        *(
            "se[a=1,]-resnet50",
            "se[a=1,a=1]-resnet50",
            "se[a=1][b=2]-resnet50",
            "se[a=1]7-resnet50",
            "se[A=1]-resnet50",
        ),
        *("dca-resnet50", "dca[dims=channel]-resnet50", "dca-dca-se-resnet50", "se-se-resnet50", "se-cra-resnet50"),
        *("se-aw-resnet50", "aw-sk-resnet50", "se-retinanet-resnet50", "dca-retinanet-resnet50"),
        *("eca:ECA-se-resnet50", "eca:-resnet50", ":ECA-resnet50", "e ca:ECA-resnet50", "se-eca:ECA-resnet50"),
        *("se-dca-resnet50", "se-dca[pool=max]-resnet50", "[a=b]-resnet50", "7-resnet50"),
    ],
)
def test_malformed_names_are_refused(text):
    with pytest.raises(OutOfRange) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value) or ". " in str(caught.value)  # what is wrong, and what to do


@settings(deadline=None)
@given(st.text("secradbm5057[]=,-+ é", max_size=20) | st.text(max_size=12))
def test_any_text_is_a_name_or_an_error_of_ours(text):
    try:
        assert str(parse(str(parse(text)))) == str(parse(text))
    except WorkbenchError as error:
        assert str(error)


def test_endless_digits_are_refused():
    with pytest.raises(OutOfRange):
        parse(f"cra{'9' * 5000}-resnet50")


@pytest.mark.parametrize("target", [*CONNECTIONS.values(), *CONVS.values(), *ATTENTIONS.values(), *BACKBONES.values()])
def test_every_word_leads_to_something_callable(target):
    module, attribute = target.split(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_the_grammar_does_not_import_torch():
    check = "import workbench.names, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
    check = check.replace("torch", "dataclasses")  # witness
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True).returncode == 1
