"""Errors in percent against a literal count on hand-made logits."""

import math

import pytest
import torch
from torch import nn

from workbench.datasets.memory import Batches, Split
from workbench.training.evaluate import evaluate, misses


class Answers(nn.Module):
    """A network that looks up its logits by the number written in the picture's first two channels."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.seen = logits, []

    def forward(self, x):
        assert not self.training and not torch.is_grad_enabled()
        high, low, _ = (255 * x[:, :, 0, 0]).round().long().unbind(1)
        self.seen.append(len(x))
        return self.logits[256 * high + low]


def numbered(labels):
    """A split whose picture i shows the number i."""
    i = torch.arange(len(labels))
    pictures = torch.stack([i // 256, i % 256, 0 * i], 1).byte().view(-1, 1, 1, 3)
    return Split(pictures, labels, ("a",), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def literal(logits, labels):
    """Top-1 error, top-5 error in percent and mean loss, one picture after the other."""
    top1 = top5 = loss = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(range(len(row)), key=row.__getitem__, reverse=True)
        top1 += ranked[0] != label
        top5 += label not in ranked[:5]
        loss += math.log(sum(map(math.exp, row))) - row[label]
    return {"loss": loss / len(labels), "top1_error": 100 * top1 / len(labels), "top5_error": 100 * top5 / len(labels)}


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 10, 100])
@pytest.mark.parametrize("count", [1, 499, 500, 501, 1203])
def test_errors_are_a_literal_count(classes, count):
    torch.manual_seed(0)
    logits, labels = torch.randn(count, classes), torch.randint(0, classes, (count,))
    network = Answers(logits)
    found = evaluate(network, Batches(numbered(labels), torch.device("cpu"), 500))
    assert found == pytest.approx(literal(logits, labels), rel=1e-5, abs=1e-12)
    assert sum(network.seen) == count and max(network.seen) <= 500  # each picture once
    if count > 400:
        assert found != pytest.approx(literal(logits, labels.roll(1)), rel=1e-5)  # witness


def test_errors_are_in_percent():
    logits = torch.eye(8).repeat(5, 1)  # the first of 8 classes is right
    labels = torch.arange(8).repeat(5)
    labels[:10] = (labels[:10] + 1) % 8
    found = evaluate(Answers(logits), Batches(numbered(labels), torch.device("cpu"), 500))
    assert found["top1_error"] == 25.0
    assert 0 <= found["top5_error"] < 25.0


def test_with_five_classes_or_fewer_nothing_is_outside_the_first_five():
    logits, labels = torch.randn(50, 5), torch.randint(0, 5, (50,))
    assert misses(logits, labels)[1] == 0
    assert misses(logits[:, :4], labels % 4).tolist() == [float((logits[:, :4].argmax(1) != labels % 4).sum()), 0.0]
    assert misses(torch.randn(500, 6), torch.randint(0, 6, (500,)))[1] > 0  # witness


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_is_restored(training):
    labels = torch.zeros(3, dtype=torch.long)
    network = Answers(torch.ones(3, 2)).train(training)
    evaluate(network, Batches(numbered(labels), torch.device("cpu"), 500))
    assert network.training is training


def test_the_mode_is_restored_after_an_error_too():
    network = Answers(torch.ones(1, 2)).train()
    with pytest.raises(IndexError):
        evaluate(network, Batches(numbered(torch.zeros(3, dtype=torch.long)), torch.device("cpu"), 500))
    assert network.training
