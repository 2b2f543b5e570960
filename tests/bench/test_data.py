"""The batches that `bench data` compares show the same pictures, crops and flips."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench.bench import data as bench
from workbench.bench.settings import RANDOM, Settings, pictures, random_split
from workbench.datasets.memory import Split, augmentation

CPU = torch.device("cpu")
OUTCOMES, SAMPLES = 9 * 9 * 2, 4_000
LIMIT = 221.0  # chi-square, 161 degrees of freedom, p = 0.001


def settings(**given):
    return Settings(**{"data_dir": Path("nowhere"), "batch": 4, "rounds": 1} | given)


def places(count=SAMPLES, pad=4):
    """Copies of one picture whose bytes tell each pixel's row and column."""
    at = torch.arange(32, dtype=torch.uint8) * 7 + 1
    row, column = torch.meshgrid(at, at, indexing="ij")
    picture = torch.stack([row, column, torch.full_like(row, 9)], -1)
    pictures = picture.expand(count, 32, 32, 3)
    return Split(pictures, torch.zeros(count, dtype=torch.int64), ("one",), (0.0,) * 3, (1.0,) * 3, pad, True)


def as_bytes(x):
    return (255 * x).round().byte().permute(1, 2, 0).contiguous().numpy().tobytes()


def ours_of(split):
    x, _ = split.batches(CPU, 50)(torch.arange(len(split)), augmentation(0, 0, split))
    return Counter(map(as_bytes, x))


def theirs_of(split, name):
    torch.manual_seed(0)
    source = bench.Pictures(split, bench.augmentations(split)[name])
    return Counter(as_bytes(source[i][0]) for i in range(len(split)))


def chi_square(counts):
    expected = counts.total() / OUTCOMES
    return sum((count - expected) ** 2 / expected for count in counts.values()) + expected * (OUTCOMES - len(counts))


@pytest.mark.parametrize("name", ["transforms", "transforms.v2"])
def test_torchvision_and_ours_crop_and_flip_alike(name):
    """The same 162 pictures, each as often as any other."""
    ours, theirs = ours_of(places()), theirs_of(places(), name)
    assert ours.keys() == theirs.keys() and len(ours) == OUTCOMES
    assert chi_square(ours) < LIMIT and chi_square(theirs) < LIMIT
    less = theirs_of(places(2_000, pad=3), name)  # witness: a pad of 3 makes fewer pictures, and others
    assert less.keys() != ours.keys() and chi_square(less) > LIMIT


def test_the_chi_square_test_notices_a_flip_that_is_not_even():
    split = places()
    draws = augmentation(0, 0, split)
    draws[: SAMPLES // 5, 2] = 0
    x, _ = split.batches(CPU, 50)(torch.arange(SAMPLES), draws)
    counts = Counter(map(as_bytes, x))
    assert len(counts) == OUTCOMES and chi_square(counts) > LIMIT


@pytest.mark.parametrize("name", ["transforms", "transforms.v2"])
def test_without_crop_and_flip_the_values_are_the_same(name):
    split = replace(random_split(6, 32), pad=0)
    change = bench.augmentations(split)[name]
    steps = [step for step in change.transforms if "Flip" not in type(step).__name__]
    source = bench.Pictures(split, type(change)(steps))
    theirs = torch.stack([source[i][0] for i in range(6)])
    ours, labels = split.batches(CPU, 6)(torch.arange(6))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert labels.tolist() == [source[i][1] for i in range(6)]
    assert not torch.allclose(ours[0], theirs[1], atol=1e-6)  # witness


def test_streams_are_endless_shuffled_and_drop_the_incomplete_batch():
    split = random_split(10, 32)
    mine = bench.ours(split.batches(CPU, 4), steps=2)
    theirs = bench.endless(
        bench.loader(bench.Pictures(split, bench.augmentations(split)["transforms"]), settings(), 0), CPU
    )
    for stream in (mine, theirs):
        labels = torch.stack([next(stream)[1] for _ in range(6)]).view(3, 8)
        assert all(len(set(epoch.tolist())) == 8 for epoch in labels)
        assert len({tuple(epoch.tolist()) for epoch in labels}) == 3  # witness: another order in each epoch


def test_entries_tell_peers_ratios_and_rates():
    for entry in bench.beside(random_split(12, 32), 0, settings()):
        assert entry["ratio"] == entry["peer_s"] / entry["time_s"] and entry["seconds"] == "CPU"
        assert entry["pictures_per_s"] == pytest.approx(4 / entry["time_s"])
        assert entry["peer_pictures_per_s"] == pytest.approx(4 / entry["peer_s"])
        assert entry["ratio"] > 2  # ours is 20 times as fast and more with batches of 64


def test_with_workers_wall_time_counts():
    before = torch.get_num_threads()
    found = bench.beside(random_split(12, 32), 1, settings())
    assert [entry["peer"] for entry in found] == ["transforms, 1 workers", "transforms.v2, 1 workers"]
    assert {entry["seconds"] for entry in found} == {"wall"} and torch.get_num_threads() == before


def test_without_cifar_the_pictures_are_random_bytes_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.bench.settings.COUNT", 8)
    name, train, test = pictures(settings(data_dir=tmp_path))
    assert name == RANDOM and len(train) == 8 and train.side == 32 and len(test) == 4
    assert pictures(settings(), 64)[0] == "random bytes, 64 px"
