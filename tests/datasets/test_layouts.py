"""`layouts`: a function of its seed; the pictures of one cell are the circular shifts of those of another."""

import itertools

import numpy as np
import pytest
import torch

from workbench import datasets
from workbench.datasets import layouts

SHIFTS = list(itertools.product(range(4), range(4)))


class Dice:
    """In place of numpy's generator: given labels, jitters and noise."""

    def __init__(self, labels, jitter, noise):
        self.integers = lambda low, high, size: jitter if isinstance(size, tuple) else labels
        self.standard_normal = lambda shape: noise.copy()


@pytest.fixture
def pictures(monkeypatch):
    """Labels, jitters and noise -> the pictures that `layouts.make` makes of them."""

    def made(labels, jitter, noise):
        with monkeypatch.context() as patch:
            patch.setattr(np.random, "Generator", lambda source: Dice(labels, jitter, noise))
            return layouts.make(len(labels), seed=0).pictures

    return made


@pytest.fixture
def drawn():
    """Every class with every jitter: labels, jitters and noise."""
    labels, row, column = (part.ravel() for part in np.mgrid[:32, :2, :2])
    noise = np.random.default_rng(0).standard_normal((len(labels), 16, 16, 3))
    return labels, np.stack([row, column], 1), noise


def test_a_split_is_a_function_of_its_seed():
    one, same, other = layouts.make(50, seed=3), layouts.make(50, seed=3), layouts.make(50, seed=4)
    assert torch.equal(one.pictures, same.pictures) and torch.equal(one.labels, same.labels)
    assert not torch.equal(one.pictures, other.pictures) and not torch.equal(one.labels, other.labels)  # witness


def test_the_first_numbers_are_those_of_version_1():
    split = layouts.make(4, seed=0)
    assert split.labels.tolist() == [4, 0, 30, 8]
    assert split.pictures[0, 0, :2].tolist() == [[119, 87, 83], [129, 110, 148]]
    assert layouts.VERSION == "layouts-1"


def test_32_classes_all_drawn():
    split = layouts.make(2048, seed=1)
    assert len(split.classes) == len(set(split.classes)) == 32
    counts = torch.bincount(split.labels, minlength=32).double()
    assert len(counts) == 32
    assert float(((counts - 64) ** 2 / 64).sum()) < 61.1  # chi-square, 31 degrees of freedom, p = 0.001
    assert split.pictures.shape == (2048, 16, 16, 3) and split.pictures.dtype == torch.uint8


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_a_picture_shifted_by_whole_cells_is_a_picture_of_that_cell(pictures, drawn, shift):
    labels, jitter, noise = drawn
    pixels = tuple(layouts.CELL * cells for cells in shift)
    texture, row, column = np.unravel_index(labels, (2, 4, 4))
    moved = np.ravel_multi_index((texture, (row + shift[0]) % 4, (column + shift[1]) % 4), (2, 4, 4))
    rolled = pictures(labels, jitter, noise).roll(pixels, (1, 2))
    assert torch.equal(rolled, pictures(moved, jitter, np.roll(noise, pixels, (1, 2))))
    wrong = np.ravel_multi_index((1 - texture, *np.unravel_index(moved, (2, 4, 4))[1:]), (2, 4, 4))
    assert not torch.equal(rolled, pictures(wrong, jitter, np.roll(noise, pixels, (1, 2))))  # witness


def test_a_shift_by_less_than_a_cell_is_no_such_picture(pictures, drawn):
    """The witness of the law above: the jitter does not fill the cell, so the class is in the place."""
    labels, jitter, noise = drawn
    rolled = pictures(labels, jitter, noise).roll(layouts.JITTER, 1)
    for other in range(32):
        moved = pictures(np.full_like(labels, other), jitter, np.roll(noise, layouts.JITTER, 1))
        assert not (rolled == moved).flatten(1).all(1).any()


def test_the_patch_alone_tells_texture_and_place(pictures):
    labels, jitter = np.arange(32), np.zeros((32, 2), int)
    plain = pictures(labels, jitter, np.zeros((32, 16, 16, 3)))
    assert len({picture.numpy().tobytes() for picture in plain}) == 32
    for label, picture in enumerate(plain.numpy()):
        texture, row, column = np.unravel_index(label, (2, 4, 4))
        patch = picture[4 * row :, 4 * column :][:3, :3, 0]
        stripes = np.array([[192] * 3, [64] * 3, [192] * 3])
        assert np.array_equal(patch, stripes if texture == 0 else stripes.T)
        assert (picture != 128).sum() == 27  # nothing else but three channels of the patch


def test_train_and_test_are_two_draws_of_the_printed_size():
    train, test = datasets.load("layouts", root=None)
    assert (len(train), len(test)) == (4096, 2048)
    seen = {picture.tobytes() for picture in train.pictures.numpy()}
    assert not any(picture.tobytes() in seen for picture in test.pictures.numpy())
    assert train.pictures[0].numpy().tobytes() in seen  # witness
