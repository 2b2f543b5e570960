"""A disk that is really full: what was saved stays whole, the message says how much is missing, and the run goes on."""

import contextlib
import io
import re

import pytest

from workbench import cli
from workbench.errors import CannotWrite
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.checkpoint import Checkpoints
from workbench.training.recipe import Recipe

EXPERIMENT = Experiment(
    model="resnet20",  # a checkpoint of 2.2 MB
    dataset="layouts",
    recipe=Recipe(batch=64, epochs=3, lr=0.1),  # 3 epochs of 5 steps
    seed=1,
)
KEY = EXPERIMENT.key()
CHECKPOINT = 2_250_000


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """The record of each run in one piece, with room."""
    found = {}

    def record():
        if not found:
            found["record"] = Store(tmp_path_factory.mktemp("oracle")).run(EXPERIMENT, device="cpu")
        return found["record"]

    return record


def position(store):
    return Checkpoints(store.root / KEY / "ckpt", KEY).load()[1]["position"]


def parts(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


def same(one, other):
    return one._replace(duration_s=0, environment={}) == other._replace(duration_s=0, environment={})


@pytest.mark.parametrize("leave", [0, 40_000, CHECKPOINT // 2, CHECKPOINT - 40_000])
def test_full_at_a_checkpoint(on_own_disk, tiny_layouts, oracle, leave):
    expected = oracle()

    def scenario(disk):
        store, reached = Store(disk.folder / "runs"), []
        with pytest.raises(CannotWrite) as caught:
            store.run(EXPERIMENT, "cpu", on_epoch=lambda training: disk.fill(leave))
        needed, free = map(float, re.search(r"needs ([\d.]+) MB, ([\d.]+) MB are free", str(caught.value)).groups())
        assert needed == pytest.approx(CHECKPOINT / 1e6, rel=0.1) and leave / 1e6 <= free + 0.1 <= needed + 0.1
        assert "No space left" in str(caught.value) and "run it again" in str(caught.value)
        assert position(store) == 5 and not parts(disk.folder) and store.get(EXPERIMENT) is None
        disk.clear()
        record = store.run(EXPERIMENT, "cpu", on_step=lambda training: reached.append(training.position))
        assert reached[0] == 6 and same(record, expected)

    assert on_own_disk(scenario) == 0


def test_with_room_it_is_written(on_own_disk, tiny_layouts):
    """Witness: the same disk, filled but for three checkpoints more."""

    def scenario(disk):
        def fill(training):
            if len(training.history) == 1:
                disk.fill(3 * CHECKPOINT)

        assert Store(disk.folder / "runs").run(EXPERIMENT, "cpu", on_epoch=fill).status == "done"

    assert on_own_disk(scenario) == 0


def test_full_at_a_checkpoint_of_the_command(on_own_disk, tiny_layouts):
    """The disk has room for one checkpoint and a half."""
    train = ["train", "resnet20", "--data", "layouts", "--recipe", "smoke", "--epochs", "2", "--device", "cpu"]

    def scenario(disk):
        runs = disk.folder / "runs"
        disk.fill(3 * CHECKPOINT // 2)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            assert cli.main([*train, "--runs", str(runs)]) == 1
        [message] = said.getvalue().splitlines()
        assert message.startswith("workbench: Cannot write the checkpoint") and " MB are free" in message
        disk.clear()
        assert cli.main([*train, "--runs", str(runs)]) == 0  # witness

    assert on_own_disk(scenario) == 0


def test_full_at_the_record(on_own_disk, tiny_layouts, oracle):
    expected = oracle()

    def scenario(disk):
        store = Store(disk.folder / "runs")

        def fill(training):
            if training.done:
                disk.fill()

        with pytest.raises(CannotWrite, match=r"record\.json .*No space left"):
            store.run(EXPERIMENT, "cpu", on_epoch=fill)
        assert store.get(EXPERIMENT) is None and not parts(disk.folder)
        disk.clear()
        record = store.run(EXPERIMENT, "cpu", on_step=lambda training: pytest.fail("trained again"))
        assert same(record, expected) and store.get(EXPERIMENT) == record

    assert on_own_disk(scenario) == 0


def test_full_at_the_journal(tmp_path, tiny_layouts):
    """/dev/full takes nothing; a journal that is replaced as a whole has room, one that is added to has none."""
    store = Store(tmp_path / "runs")
    journal = store.root / KEY / "log.jsonl"

    def full(training):
        journal.unlink()
        journal.symlink_to("/dev/full")

    with contextlib.suppress(CannotWrite):
        store.run(EXPERIMENT, "cpu", on_step=full)
    record = store.run(EXPERIMENT, "cpu")
    assert record.status == "done" and len(journal.read_text().splitlines()) == len(record.curves)
