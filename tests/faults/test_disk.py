"""A runs folder that is deleted, not writable or full: said in one sentence, and what was done is kept."""

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


def test_a_run_folder_made_again_by_another_is_not_written_to(tmp_path, tiny_layouts):
    """Deleted and started again while the first process still trains: two writers, each with a lock."""
    folder = Store(tmp_path / "runs").root / KEY

    def replace(training):
        if training.position == 3:
            shutil.rmtree(folder)
            folder.mkdir()

    with pytest.raises(CannotWrite, match="removed"):
        Store(tmp_path / "runs").run(EXPERIMENT, device="cpu", on_step=replace)
    assert not list(folder.iterdir())


def test_a_run_folder_that_stays_is_written_to(tmp_path, tiny_layouts):
    """Witness of the two above; through a link, and with checkpoints that someone deletes."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")

    def delete(training):
        if training.position == 13:
            shutil.rmtree(tmp_path / "disk" / KEY / "ckpt")

    assert Store(tmp_path / "runs").run(EXPERIMENT, device="cpu", on_step=delete).status == "done"
    assert len(list((tmp_path / "disk" / KEY / "ckpt").glob("step-*"))) == 1


@pytest.mark.parametrize("runs", ["/proc/runs", "a file", "a file/runs"])
def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path, tiny_layouts, runs):
    (tmp_path / "a file").touch()
    with pytest.raises(CannotWrite) as caught:
        Store(tmp_path / runs).run(EXPERIMENT, "cpu", on_step=lambda training: pytest.fail("trained"))
    assert "nothing was started" in str(caught.value) and str(tmp_path / runs) in str(caught.value)
    assert (tmp_path / "a file").read_bytes() == b""


@pytest.mark.parametrize("locked", [".", KEY, f"{KEY}/ckpt"], ids=["runs", "the run", "its checkpoints"])
def test_a_read_only_folder_is_told_before_training(on_own_disk, tiny_layouts, locked):
    """Mounted read-only, so that no user may write there."""

    def scenario(disk):
        store = Store(disk.folder / "runs")
        (store.root / KEY / "ckpt").mkdir(parents=True)
        disk.read_only(store.root / locked)
        with pytest.raises(CannotWrite) as caught:
            store.run(EXPERIMENT, "cpu", on_step=lambda training: pytest.fail("trained"))
        message = str(caught.value)
        assert "Read-only file system" in message and "nothing was started" in message
        assert str(store.root) in message and not list(disk.folder.rglob("record.json"))

    assert on_own_disk(scenario) == 0


def test_a_folder_that_can_be_written_is_trained_in(on_own_disk, tiny_layouts):
    """Witness: another folder of that disk is read-only."""

    def scenario(disk):
        (disk.folder / "elsewhere").mkdir()
        disk.read_only(disk.folder / "elsewhere")
        assert Store(disk.folder / "runs").run(EXPERIMENT, "cpu").status == "done"

    assert on_own_disk(scenario) == 0


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
