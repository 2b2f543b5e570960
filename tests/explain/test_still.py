"""The still image of one network and one picture shows what it is given, and nothing else."""

import io
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")
from workbench.explain import still
from workbench.explain.still import Seen

RNG = np.random.default_rng(0)
SEEN = Seen(
    RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8),
    np.array([0.75, 0.25]),
    {1: RNG.random((16, 16), np.float32), 2: RNG.random((16, 16), np.float32)},
    [("1.1", RNG.random(8, np.float32)), ("2.1", RNG.random(16, np.float32))],
)


def panels(layer, seen=SEEN):
    figure = still.draw(seen, layer, "caption")
    upper, lower = figure.subfigs
    return upper, lower.axes


def test_a_figure_is_a_transparent_png_of_its_own_bytes():
    data = still.png(SEEN, "1.1", "caption")
    image = Image.open(io.BytesIO(data))
    assert image.size == (1000, 620) and image.mode == "RGBA" and image.getpixel((0, 0))[3] == 0
    assert data == still.png(SEEN, "1.1", "caption") and len(data) < 200_000
    assert data != still.png(SEEN, "2.1", "caption")  # witness


def test_above_are_the_picture_and_a_map_of_every_stage_with_that_of_the_layer_in_bold():
    upper, _ = panels("2.1")
    titles = {panel.get_title(): panel.title.get_fontweight() for panel in upper.axes}
    assert titles == {"picture": "normal", "after stage 1": "normal", "after stage 2": "bold"}
    assert (upper.axes[0].images[0].get_array() == SEEN.picture).all()
    assert (upper.axes[1].images[0].get_array() != SEEN.picture).any()  # witness: the heat is laid over it


def test_below_are_the_curve_of_the_layer_and_a_row_of_every_layer():
    _, (curve, heat, *_) = panels("2.1")
    T = dict(SEEN.channels)["2.1"]
    assert (curve.lines[0].get_ydata() == T).all() and curve.get_title() == "attention of block 2.1"
    cells = heat.images[0].get_array()
    assert cells.shape == (2, 16) and (cells[1] == T).all()
    assert cells.mask[0, 8:].all() and not cells.mask[0, :8].any()  # blank where there are no channels
    assert [label.get_fontweight() for label in heat.get_yticklabels()] == ["normal", "bold"]


def test_a_deep_network_names_some_layers_and_always_the_chosen_one():
    deep = SEEN._replace(channels=[(f"1.{number}", np.ones(4, np.float32)) for number in range(1, 51)])
    _, (_, heat, *_) = panels("1.50", deep)
    names = [label.get_text() for label in heat.get_yticklabels()]
    assert len(names) < 25 and names[0] == "1.1" and names[-1] == "1.50" and "1.2" not in names


def test_without_attention_of_channels_the_figure_says_so():
    _, (curve, heat) = panels("1", SEEN._replace(channels=[], why="This ResNet has no channel attention."))
    assert [text.get_text() for text in curve.texts] == ["This ResNet has no channel attention."]
    assert not heat.axison and not curve.lines
    _, (other, *_) = panels("1.2")
    assert re.search("Block 1.2 attends no channels", other.texts[0].get_text())


@pytest.mark.parametrize(("layer", "stage"), [("1.1", 1), ("2.3", 2), ("2", 2), ("3.1", 2)])
def test_a_layer_lies_in_a_stage_and_a_gate_after_the_last_belongs_to_it(layer, stage):
    assert still.stage(layer, SEEN) == stage


def test_a_sentence_stands_in_place_of_the_figure():
    assert Image.open(io.BytesIO(still.words("Nothing."))).size == (1000, 100)
    assert still.words("Nothing.") != still.words("Nothing!")
