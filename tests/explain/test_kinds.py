"""What a network of a given name has to show agrees with what its blocks do."""

import pytest
import torch

from workbench import names
from workbench.build import build
from workbench.errors import OutOfRange
from workbench.explain import maps, templates
from workbench.explain.kinds import KINDS, has, missing, no_gate

MODELS = ["resnet8", *(f"{word}-resnet8" for word in names.ATTENTIONS if word not in ("cra", "gc")), "cra4-resnet8",
          "gc[reduction=4]-resnet8", "sk-resnet8", "aw-se-resnet8", "dca-cra4-resnet8", "dca-cbam-resnet8"]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_kind_is_there_where_its_function_finds_it(model):
    torch.manual_seed(0)
    network = build(model, 5, checked=False)
    for key, kind in KINDS.items():
        try:
            if kind.function:
                getattr(maps, kind.function)(network, torch.zeros(2, 3, 32, 32))
            else:
                templates.blocks(network)
            there = True
        except OutOfRange:
            there = False
        assert bool(has(model, key)) == there, key


def test_every_kind_has_a_network_and_most_networks_lack_one():
    for key, kind in KINDS.items():
        assert any(has(model, key) for model in MODELS) and not has("resnet8", key)
        assert has(kind.example, key)


def test_what_is_missing_is_said_in_one_sentence():
    assert missing("sk-resnet8", "curves", ["aw-resnet8", "ge-resnet8"]) == (
        "sk-resnet8 has no channel attention; choose ge-resnet8 instead."
    )
    assert "run `workbench train sk-resnet8 --data layouts" in missing("se-resnet8", "branches", ["se-resnet8"])
    connected = missing("dca-cra4-resnet8", "templates", ["dca-cra4-resnet8", "cra4-resnet8"])
    assert "also read what earlier blocks attended" in connected and connected.endswith("choose cra4-resnet8 instead.")


def test_what_is_no_gate_is_said():
    assert "an added term, no gate" in no_gate("gc[reduction=4]-resnet8")
    assert "X (1 + T)" in no_gate("bam-resnet8")
    assert no_gate("se-resnet8") == no_gate("resnet8") == ""
