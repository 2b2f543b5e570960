"""A runs folder that is deleted, full or not writable: said in one sentence, and what was done is kept."""

import errno
import os
import shutil

import pytest

from workbench.errors import CannotWrite
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe

EXPERIMENT = Experiment(
    model="circularnet",
    dataset="layouts",
    recipe=Recipe(batch=32, epochs=2, lr=0.1),  # 2 epochs of 10 steps
    seed=1,
)
KEY = EXPERIMENT.key()


def test_a_run_folder_deleted_during_training_is_not_made_again(tmp_path, tiny_layouts):
    store = Store(tmp_path / "runs")
    reached = []

    def delete(training):
        reached.append(training.position)
        if training.position == 3:
            shutil.rmtree(store.root / KEY)

    with pytest.raises(CannotWrite, match="removed"):
        store.run(EXPERIMENT, device="cpu", on_step=delete)
    assert reached[-1] == 10 and not (store.root / KEY).exists()  # stopped at the end of the first epoch
    assert store.run(EXPERIMENT, device="cpu").status == "done"


@pytest.mark.parametrize("runs", ["/proc/runs", "a file", "a file/runs"])
def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path, tiny_layouts, runs):
    (tmp_path / "a file").touch()
    with pytest.raises(CannotWrite) as caught:
        Store(tmp_path / runs).run(EXPERIMENT, "cpu", on_step=lambda training: pytest.fail("trained"))
    assert "nothing was started" in str(caught.value) and str(tmp_path / runs) in str(caught.value)
    assert (tmp_path / "a file").read_bytes() == b""


def test_a_disk_full_at_the_record_leaves_only_the_record_to_write(tmp_path, monkeypatch, tiny_layouts):
    store = Store(tmp_path / "runs")
    replace = os.replace

    def full(source, target):
        if os.path.basename(target) == "record.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(CannotWrite, match="No space left"):
            store.run(EXPERIMENT, device="cpu")
    assert store.get(EXPERIMENT) is None and not list(tmp_path.rglob("*.part"))
    record = store.run(EXPERIMENT, device="cpu", on_step=lambda training: pytest.fail("trained again"))
    assert record.status == "done" and store.get(EXPERIMENT) == record
