"""The page of a table: every figure of its notebook from runs made here, and a plain word where nothing is trained."""

import numpy as np
import pytest
import torch

from workbench.datasets import shapes
from workbench.errors import DataMissing, UnknownName
from workbench.experiments import looks, page, report, traits
from workbench.experiments.experiment import Experiment
from workbench.experiments.page import UNTRAINED, Page
from workbench.experiments.store import Store
from workbench.explain import maps
from workbench.explain.pictures import jpeg
from workbench.training.recipe import RECIPES

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """dca-2 at smoke on few pictures: a store whose runs are done, and a page on it."""
    root = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        from workbench.datasets import layouts

        small = layouts.make(256, 0), layouts.make(128, 1)
        patch.setattr(layouts, "load", lambda: small)
        patch.setattr(report, "run_all", lambda runs, store, *_: [store.run(run, "cpu") for run in runs])
        shown = Page("dca-2", "smoke", seeds=2, epochs=1, device="cpu", runs_dir=str(root / "runs"))
        shown.store.published = root / "none"
        shown.run()
        yield shown


def test_every_part_of_a_page_is_there(ran):
    assert "outperform vanilla" in ran.claims().data and "ImageNet 2012" in ran.claims().data
    assert list(ran.models()["twin"]) == [name for _, name in ran.table.measured_rows("smoke")]
    heads = [head for head in ran.numbers().columns if "measured here, smoke, 1 epoch" in head[1]]
    assert len(heads) == 2  # top-1 and top-5
    assert len(next(trace for trace in ran.figure().data if trace.name == "one seed").x) == 8  # 4 rows, 2 seeds
    named = {trace.name for trace in ran.both_curves("SE-ResNet50", "Direct").data if trace.name}
    assert named == {f"{row}, {kind} (n = 2)" for row in ("SE-ResNet50", "Direct") for kind in ("test", "training")}
    joined = [trace.name for trace in ran.parameters().data if trace.name and "→" in trace.name]
    assert "SE-ResNet50 → Direct" in joined


def test_what_is_heard_is_what_the_weights_say(ran):
    figure = ran.contributions("Direct")
    run = looks._runs(ran.table, ran.store, "smoke", "Direct")[0]
    expected = [share.ratio for share in maps.contribution(ran.store.trained(run))]
    shown = [trace for trace in figure.data if len(trace.y) == len(expected)]
    assert any(np.allclose(trace.y, expected, atol=0.2) for trace in shown)
    record = ran.store.get(run)
    assert record.metrics["contribution"] == expected and len(expected) == 8
    other = ran.store.get(looks._runs(ran.table, ran.store, "smoke", "Softmax")[0])
    assert other.metrics["contribution"] != expected  # witness


def test_weights_read_back_give_the_loss_of_the_record(ran):
    run = looks._runs(ran.table, ran.store, "smoke", "Direct")[0]
    _, test = report.datasets.load("layouts", ran.store.data)
    _, x = traits.normalised(test, range(len(test)))

    def loss(network):
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(network(x), test.labels).item()

    network, recorded = ran.store.trained(run), ran.store.get(run).curves[-1]["test_loss"]
    assert not network.training
    assert loss(network) == pytest.approx(recorded, rel=1e-5)
    network.fc.bias.data[0] += 0.1
    assert loss(network) != pytest.approx(recorded, rel=1e-5)  # witness


def test_the_gates_of_a_record_are_the_mean_over_test_pictures(ran):
    run = looks._runs(ran.table, ran.store, "smoke", "SE-ResNet50")[0]
    _, test = report.datasets.load("layouts", ran.store.data)
    _, x = traits.normalised(test, range(len(test)))
    gates = ran.store.get(run).metrics["attention"]
    expected = {site: T.mean() for site, T in maps.channel_attention(ran.store.trained(run), x)}
    assert gates.keys() == expected.keys() and len(gates) == 9
    assert all(abs(gates[site] - expected[site]) < 1e-5 for site in gates)
    assert max(gates.values()) - min(gates.values()) > 1e-4  # witness: they differ among themselves


def test_pictures_that_are_shown_are_the_test_pictures(ran):
    run = looks._runs(ran.table, ran.store, "smoke", "Direct")[0]
    pictures, x, names, labels = looks.shown(run, ran.store, 3)
    _, test = report.datasets.load("layouts", ran.store.data)
    assert names == list(test.classes[:3]) and labels == [0, 1, 2]
    for picture, label in zip(pictures, labels, strict=True):
        first = test.labels.tolist().index(label)
        assert np.array_equal(picture, test.pictures[first].numpy())
    batches = test.batches(torch.device("cpu"), 8)
    assert torch.allclose(batches(torch.tensor([test.labels.tolist().index(0)]))[0], x[:1], atol=1e-6)


def test_attention_over_channels_has_a_panel_for_each_block(ran):
    figure = ran.attention("Direct", 2)
    assert len(figure.data) == 2 * 9


def test_a_row_that_is_none_is_refused_with_its_neighbours(ran):
    with pytest.raises(UnknownName, match="Did you mean 'Direct'"):
        ran.contributions("Dirct")
    with pytest.raises(UnknownName, match="'Direct'"):
        ran.both_curves("Dirct")


def test_weights_that_are_not_here_are_said_to_be_missing(tmp_path):
    run = Experiment(model="dca-se-resnet20", dataset="layouts", recipe=RECIPES["smoke"], seed=0)
    with pytest.raises(DataMissing, match="Train it here"):
        Store(tmp_path / "runs").trained(run)


def test_at_budget_count_nothing_is_trained(tmp_path):
    shown = Page("dca-2", "count", runs_dir=str(tmp_path / "runs"))
    shown.run()
    for part in (shown.figure(), shown.curves(), shown.parameters(), shown.logs(), shown.cams("Direct")):
        assert part == UNTRAINED
    assert not (tmp_path / "runs").exists()


def test_a_budget_that_is_none_is_refused_at_once(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'smoke'"):
        page.Page("dca-2", "smke", runs_dir=str(tmp_path))


def test_the_layers_of_cra_1_stand_beside_the_print(tmp_path):
    lines = Page("cra-1", "count", runs_dir=str(tmp_path)).layers("CRA-ResNet-50")
    assert lines["published"].equals(lines["built"]) and len(lines) > 4


def test_detectors_are_shown_on_the_same_test_pictures(tmp_path, monkeypatch):
    splits = shapes.make(8, seed=0), shapes.make(4, seed=1)
    monkeypatch.setattr(shapes, "load", lambda: splits)
    shown = Page("cra-6", "smoke", seeds=1, epochs=1, runs_dir=str(tmp_path / "runs"))
    rows = "ResNet-50", "CRA-ResNet-50"
    with pytest.raises(DataMissing, match="Train it here"):
        shown.detections(*rows)
    for row in rows:
        shown.store.run(looks._runs(shown.table, shown.store, "smoke", row)[0], "cpu")
    figure = shown.detections(*rows, pictures=2, least=0.0)
    assert [note.text for note in figure.layout.annotations[:2]] == [*rows]
    cells = [one.source for one in figure.data if one.type == "image"]
    assert cells == [jpeg(splits[1].pictures[index].numpy()) for index in (0, 1, 0, 1)]
    assert cells[0] != cells[1]  # witness
    assert f"{len(splits[1].item(0).boxes)} in truth" in figure.layout.meta
    with pytest.raises(UnknownName, match="'CRA-ResNet-50'"):
        shown.detections("CRA-ResNet50")
    assert Page("cra-6", "count", runs_dir=str(tmp_path)).detections(*rows) == UNTRAINED
