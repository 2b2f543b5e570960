"""The notebook to look into a trained network: what its choices do, and what it keeps for a reader without a kernel."""

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import views
from PIL import Image

from workbench.errors import Corrupt, UnknownName
from workbench.experiments import zoo
from workbench.experiments.browser import KEPT, PREDICTED, Browser, Choices
from workbench.experiments.store import Store

pytest.importorskip("ipywidgets")
pytest.importorskip("pytorch_grad_cam")
NOTEBOOK = json.loads((Path(__file__).parents[1] / "notebooks" / "explore.ipynb").read_text())
OURS = ("cra7-circularnet", "se-circularnet", "dca-se-resnet20")  # come with the project, trained on `layouts`


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    """Weights of OURS, and untrained ones without attention, and with attention of kernels alone."""
    folder = tmp_path_factory.mktemp("share") / "models"
    views.save_models(folder, ("resnet8", "aw-resnet8"))
    source = Store().models
    found = {one.model: key for key, one in zoo.known(Store()).items() if one.dataset == "layouts"}
    for model in OURS:
        for path in source.glob(f"{found[model]}.*"):
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def browser(share, tmp_path):
    shutil.copytree(share, tmp_path / "models")
    return Browser(Store(tmp_path / "runs", tmp_path / "data", tmp_path / "results"))


def key(browser, model):
    return next(key for key, one in browser.networks().items() if one.model == model)


def test_the_first_choice_is_a_picture_of_what_the_network_was_trained_on(browser):
    network, picture, layer, target = browser.first()
    assert browser.networks()[network].model == "dca-se-resnet20" and picture.startswith("layouts:")
    assert layer == browser.layers(network)[-1] == "3.3" and target == PREDICTED


def test_the_figure_is_a_picture_and_says_in_words_what_it_shows(browser):
    drawn = browser.draw(*browser.first())
    assert Image.open(io.BytesIO(drawn.png)).size == (1000, 620)
    assert drawn.text.startswith("dca-se-resnet20, layouts, 0.00 % error. It says ")
    assert "The attention of block 3.3 lies from 0." in drawn.text and drawn.text.endswith("over 64 channels.")


def test_every_choice_redraws_once(browser):
    shown = []
    choices = Choices(browser, shown.append)
    first, sentence = shown[0], choices.sentence.value
    assert len(shown) == 1 and first.text in sentence
    for box, value in (
        (choices.layer, "2.1"),
        (choices.target, "vertical 0.0"),
        (choices.picture, "pattern:stripes"),
        (choices.network, key(browser, "cra7-circularnet")),
    ):
        before = shown[-1]
        box.value = value
        assert shown[-1].png != before.png and choices.sentence.value != sentence
        sentence = choices.sentence.value
    assert len(shown) == 5
    choices.network.value, choices.picture.value, choices.layer.value, choices.target.value = browser.first()
    assert shown[-1] == first  # witness: the same choice is the same figure


def test_another_network_brings_its_layers_and_keeps_the_choices_that_it_has_too(browser):
    choices = Choices(browser, lambda drawn: None)
    choices.layer.value, choices.target.value = "1.1", "vertical 0.0"
    choices.network.value = key(browser, "cra7-circularnet")
    assert choices.layer.options == ("1.1", "1.2")
    assert choices.layer.value == "1.1" and choices.target.value == "vertical 0.0"
    choices.network.value = key(browser, "dca-se-resnet20")
    choices.layer.value = "3.2"
    choices.network.value = key(browser, "cra7-circularnet")
    assert choices.layer.value == "1.2"  # the last, for want of a 3.2


def test_an_error_is_a_sentence_and_the_next_choice_draws_again(browser, tmp_path):
    shown = []
    choices = Choices(browser, shown.append)
    before = choices.network.value
    broken = key(browser, "se-circularnet")
    (tmp_path / "models" / f"{broken}.safetensors").write_bytes(b"<b>broken</b>")
    with pytest.raises(Corrupt):
        browser.network(broken)
    choices.network.value = broken
    assert "is not what was written (sha256)" in choices.sentence.value
    assert Image.open(io.BytesIO(shown[-1].png)).size == (1000, 100)
    choices.network.value = before
    assert shown[-1] == shown[0] and "sha256" not in choices.sentence.value


def test_a_sentence_is_no_markup(browser):
    choices = Choices(browser, lambda drawn: None)
    choices._refuse(Corrupt("<script>alert(1)</script>"))
    assert choices.sentence.value == "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"


def test_few_networks_stay_in_memory(browser):
    for model in OURS:
        browser.network(key(browser, model))
    assert browser.network.cache_info().currsize == KEPT < len(OURS)
    assert browser.network(key(browser, OURS[-1])) is browser.network(key(browser, OURS[-1]))


@pytest.mark.parametrize(("model", "layers"), [("resnet8", ["1", "2", "3"]), ("aw-resnet8", ["1.1", "2.1", "3.1"])])
def test_a_network_that_attends_no_channels_still_has_grad_cam(browser, model, layers):
    assert browser.layers(key(browser, model)) == layers
    drawn = browser.draw(key(browser, model), "pattern:stripes", layers[0])
    assert "has no channel attention" in drawn.text and "Grad-CAM: what speaks for" in drawn.text


def test_what_is_not_there_is_named(browser):
    network, picture, layer, _ = browser.first()
    for wrong in ((network, picture, "9.9"), (network, picture, layer, "cat"), (network, "pattern:x", layer)):
        with pytest.raises(UnknownName, match=r"9\.9|cat|pattern:x"):
            browser.draw(*wrong)
    with pytest.raises(UnknownName, match="trained network"):
        Browser(Store(published=Path("nowhere") / "results")).first()


def test_a_figure_shown_is_an_image_that_later_choices_replace(browser, monkeypatch):
    displayed, updated = [], []

    class Handle:
        update = staticmethod(updated.append)

    monkeypatch.setattr("IPython.display.display", lambda one, **how: displayed.append(one) or Handle)
    browser.show()
    box, image = displayed
    assert image.format == "png" and image.alt.startswith("dca-se-resnet20") and not updated
    layer = box.children[1].children[0]
    layer.value = "1.1"
    assert [one.format for one in updated] == ["png"] and updated[0].data != image.data


def test_the_notebook_is_few_calls_and_stored_with_a_figure_but_no_widget():
    (code,) = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert "".join(code["source"]) == "from workbench.experiments.browser import Browser\n\nBrowser().show()"
    (output,) = code["outputs"]
    image = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
    assert image.size == (1000, 620) and len(np.unique(np.asarray(image))) > 100  # witness: not blank
    assert {*output["data"]} == {"image/png", "text/plain"} and "widgets" not in NOTEBOOK["metadata"]
    assert "".join(output["data"]["text/plain"]) == output["metadata"]["image/png"]["alt"]
