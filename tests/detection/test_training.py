"""A detector's run is a run like any other: guarded, saved, continued; and it is measured in average precision."""

import math
import multiprocessing
import os
import signal

import pytest
import torch
from scenes import photographs
from torch import nn

from workbench import datasets
from workbench.datasets.shapes import make
from workbench.detection import training as module
from workbench.detection.batches import as_input
from workbench.detection.detector import Detections
from workbench.detection.training import DetectionTraining, evaluate
from workbench.errors import Corrupt, Diverged, Interrupted, OutOfRange
from workbench.training.checkpoint import Checkpoints
from workbench.training.recipe import Recipe
from workbench.training.together import together

TRAIN, TEST = make(24, seed=0), make(8, seed=1)
SHORT = Recipe(batch=4, epochs=2, lr=0.05, milestones=(1,), warmup=3)


class OneBox(nn.Module):
    """A detector of one box a picture: at the mean of all corners, of the first label."""

    def __init__(self, classes=6):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.score, self.place = nn.Linear(8, classes), nn.Linear(8, 4)

    def both(self, pictures):
        x = self.body(torch.stack(pictures)).mean((2, 3))
        return self.score(x), 96 * self.place(x).sigmoid()

    def losses(self, pictures, targets):
        scores, places = self.both(pictures)
        corners = torch.stack([one.corners.mean(0) for one in targets])
        labels = torch.stack([one.labels[0] for one in targets])
        return {"score": nn.functional.cross_entropy(scores, labels), "place": (places - corners).abs().mean() / 96}

    def detect(self, pictures):
        scores, places = self.both(pictures)
        best = scores.softmax(1).max(1)
        return [Detections(place[None], k[None], s[None]) for place, s, k in zip(places, *best, strict=True)]


def training_of(recipe=SHORT, detector=None, train=TRAIN):
    torch.manual_seed(0)
    return DetectionTraining(detector or OneBox(), train, TEST, recipe, 5, "cpu")


def weights(training):
    slots = [slot["momentum_buffer"] for slot in training.update.optimizer.state.values()]
    return [value.clone() for value in [*training.plain.state_dict().values(), *slots]]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def plainly(steps):
    """The same updates by torch's SGD and nothing of the engine but its batches."""
    torch.manual_seed(0)
    detector = OneBox().train()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0, momentum=0.9, weight_decay=1e-4, fused=True)
    batches = [batch for epoch in range(2) for batch in module.DetectionBatches(TRAIN, 4).epoch(5, epoch)]
    for step, (pictures, targets) in enumerate(batches[:steps]):
        optimizer.param_groups[0]["lr"] = 0.05 * min(1, (step + 1) / 3) * 0.1 ** (step >= 6)
        optimizer.zero_grad()
        sum(detector.losses(pictures, targets).values()).backward()
        optimizer.step()
    return list(detector.parameters())


def test_the_updates_are_those_of_a_plain_loop():
    """In the sum of the losses the order of two terms may differ by a bit."""
    training = training_of()
    for _ in range(9):
        training.step()
    ours = list(training.plain.parameters())
    torch.testing.assert_close(ours, plainly(9), rtol=1e-5, atol=1e-7)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours, plainly(8), rtol=1e-5, atol=1e-7)  # witness


def test_the_history_has_each_loss_and_average_precision():
    history = training_of().run()
    assert [line["epoch"] for line in history] == [1, 2]
    for line in history:
        assert line["train_loss"] == pytest.approx(line["train_score"] + line["train_place"], rel=1e-5)
        assert {"test_ap", "test_ap50", "test_ap75", "test_ap_small", "test_ap_medium"} <= set(line)
        assert "test_ap_large" not in line  # there are none in this data set
        assert all(math.isfinite(value) for value in line.values())
    assert history[0]["train_loss"] != history[1]["train_loss"]  # witness: the sums begin anew


def test_the_means_are_those_of_the_steps():
    training, losses = training_of(), []
    for _ in range(6):
        training.step()
        losses.append(training.look())
    assert training.close_epoch()["train_loss"] == pytest.approx(sum(losses) / 6, rel=1e-6)
    assert len(set(losses)) == 6  # witness


def test_a_run_may_end_within_its_last_epoch():
    history = training_of(Recipe(batch=4, epochs=2, lr=0.05, updates=8, milestones=(7,)))
    assert history.updates == 8 and len(history.run()) == 2 and history.position == 8
    assert history.history[-1]["lr"] == pytest.approx(0.005) and history.done
    with pytest.raises(OutOfRange, match="another data set"):
        training_of(Recipe(batch=4, epochs=2, lr=0.05, updates=13))


def test_accumulation_is_the_whole_batch_where_no_layer_sees_the_batch():
    def trained(parts, steps=3):
        torch.manual_seed(0)
        detector = OneBox()
        detector.body[1], detector.body[3] = nn.Identity(), nn.Identity()
        training = training_of(Recipe(batch=4, epochs=2, lr=0.05, accumulate=parts), detector)
        for _ in range(steps):
            training.step()
        return list(detector.parameters())

    torch.testing.assert_close(trained(2), trained(1), rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(trained(2, 2), trained(1), rtol=1e-4, atol=1e-6)  # witness


def test_a_run_whose_pictures_processes_decode_is_the_run_without(tmp_path):
    """Pictures in files; the processes end with the run."""
    train, test = datasets.load_boxes(photographs(tmp_path / "coco"), tmp_path)
    before = set(multiprocessing.active_children())

    def trained(workers, seed=5):
        torch.manual_seed(0)
        training = DetectionTraining(OneBox(), train, test, SHORT, seed, "cpu", workers=workers)
        training.run()
        assert not set(multiprocessing.active_children()) - before
        return weights(training), training.history

    alone, helped, other = trained(0), trained(2), trained(0, seed=6)
    assert equal(alone[0], helped[0]) and alone[1] == helped[1]
    assert not equal(alone[0], other[0])  # witness


DAMAGE = {
    "nothing": lambda training, scalars: None,
    "torch's generator": lambda training, scalars: torch.manual_seed(9),
    "the momentum": lambda training, scalars: [
        slot["momentum_buffer"].zero_() for slot in training.update.optimizer.state.values()
    ],
    "the sums of the losses": lambda training, scalars: training.update.parts.clear(),
    "a running mean": lambda training, scalars: training.plain.body[1].running_mean.zero_(),
    "the seed": lambda training, scalars: setattr(training, "seed", 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_continuing_is_exact_on_one_cpu_in_float32(tmp_path, damage):
    """Stopped in the middle of an epoch; each damage is a witness that its part of the checkpoint is needed."""
    whole = training_of()
    for _ in range(3):
        whole.step()
    Checkpoints(tmp_path / "ckpt", "key").save(whole.position, *whole.state())
    whole.run()
    continued = training_of()
    tensors, scalars = Checkpoints(tmp_path / "ckpt", "key").load()
    continued.load_state(tensors, scalars)
    DAMAGE[damage](continued, scalars)
    continued.run()
    exact = equal(weights(whole), weights(continued)) and whole.history == continued.history
    assert exact == (damage == "nothing")


def test_a_checkpoint_without_its_sums_is_refused():
    tensors, scalars = training_of().state()
    training_of().load_state(tensors, scalars)  # witness
    del scalars["parts"]
    with pytest.raises(Corrupt, match="parts"):
        training_of().load_state(tensors, scalars)


def test_a_signal_saves_and_the_run_goes_on_from_there(tmp_path):
    whole = training_of()
    whole.run()
    stopped = training_of()

    def stop(training):
        if training.position == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM after step 8") as caught:
        stopped.run(Checkpoints(tmp_path / "ckpt", "key"), on_step=stop)
    assert caught.value.exit_code == 143
    continued = training_of()
    continued.load_state(*Checkpoints(tmp_path / "ckpt", "key").load())
    assert continued.position == 8 and len(continued.history) == 1
    continued.run()
    assert equal(weights(whole), weights(continued)) and whole.history == continued.history


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_refused_update_changes_no_weight_and_is_not_summed(where):
    training = training_of()
    training.step(), training.step()
    if where == "loss":
        training.plain.score.register_forward_hook(lambda layer, inputs, y: y * math.inf)
    else:
        training.plain.place.weight.register_hook(lambda gradient: gradient * math.nan)
    before = [p.detach().clone() for p in training.plain.parameters()]
    sums = {name: float(value) for name, value in training.update.parts.items()}
    with pytest.raises(Diverged, match="step 2"):
        training.step()
    assert equal(before, list(training.plain.parameters()))
    assert sums == {name: float(value) for name, value in training.update.parts.items()}
    assert math.isfinite(float(training.update.progress))


def test_boxes_that_are_no_numbers_are_a_divergence():
    detector = OneBox()
    with torch.no_grad():
        detector.place.bias.fill_(math.nan)
    with pytest.raises(Diverged, match="not finite"):
        evaluate(detector, module.DetectionBatches(TEST, 4), "float32")


class Knows(OneBox):
    """Finds exactly what is there."""

    def detect(self, pictures):
        found = []
        for picture in pictures:
            (number,) = [i for i in range(len(TEST)) if torch.equal(as_input(TEST[i].picture), picture)]
            boxes = TEST[number]
            found.append(Detections(boxes.boxes, boxes.labels, torch.ones(len(boxes.labels))))
        return found


def test_who_finds_everything_has_100_percent():
    batches = module.DetectionBatches(TEST, 3)
    detector = Knows().train()
    assert evaluate(detector, batches, "float32")["ap"] == pytest.approx(100)
    assert detector.training  # the mode is restored
    assert evaluate(OneBox(), batches, "float32")["ap"] < 50  # witness


def test_two_runs_in_turns_are_each_as_if_alone():
    alone = training_of()
    alone.run()
    pair = [training_of(), training_of()]
    assert len(list(together((one.turns() for one in pair), 2))) == 2
    assert all(equal(weights(one), weights(alone)) for one in pair)


@pytest.mark.parametrize(("settings", "said"), [({"compiled": True}, "compiled"), ({"recipe": 25}, "25")], ids=str)
def test_what_a_detector_cannot_do_is_refused(settings, said):
    recipe = Recipe(batch=settings.pop("recipe", 4), epochs=1, lr=0.1)
    with pytest.raises(OutOfRange, match=said):
        DetectionTraining(OneBox(), TRAIN, TEST, recipe, 0, "cpu", **settings)
