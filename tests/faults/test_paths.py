"""A run lives under any path that the file system takes, whatever the terminal prints; no name leaves its root."""

import io
import os
import sys

import pytest

from workbench import cli, files
from workbench.errors import OutOfRange
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe

EXPERIMENT = Experiment(model="circularnet", dataset="layouts", recipe=Recipe(batch=64, epochs=2, lr=0.1), seed=0)
KEY = EXPERIMENT.key()
NAMES = {
    "spaces": " läufe  und mehr ",
    "other letters": "実験 и ещё",
    "200 characters": "x" * 200,
    "255 bytes of 3-byte letters": "験" * 85,
    "signs": "50 %s {0} $HOME 'a' \"b\" * ? [1] ~ \\",
    "a leading dash": "--runs",
    "two lines": "one\ntwo",
    "bytes that are no text": os.fsdecode(b"l\xe4ufe"),
    "deep": "/".join(["folder"] * 40),
}


class Stop(Exception):
    """Ends a run from inside."""


def stop(training):
    if training.position == 7:
        raise Stop


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_begun_continued_and_found_under_any_name(tmp_path, tiny_layouts, name):
    store = Store(tmp_path / NAMES[name], published=tmp_path / "none")
    with pytest.raises(Stop):
        store.run(EXPERIMENT, "cpu", on_step=stop)
    assert [key for key, *_ in store.unfinished()] == [KEY]
    reached = []
    record = store.run(EXPERIMENT, "cpu", on_step=lambda training: reached.append(training.position))
    assert reached[0] == 6 and list(store.records()) == [record] == [store.get(EXPERIMENT)]
    assert (tmp_path / NAMES[name] / KEY / "record.json").is_file()


def test_runs_behind_links(tmp_path, tiny_layouts):
    """A link for the runs folder, and one for a run that lies on another disk."""
    (tmp_path / "disk" / KEY).mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / KEY).symlink_to(tmp_path / "disk" / KEY)
    (tmp_path / "runs").symlink_to(tmp_path / "other")
    record = Store(tmp_path / "runs", published=tmp_path / "none").run(EXPERIMENT, "cpu")
    assert (tmp_path / "disk" / KEY / "record.json").is_file() and (tmp_path / "other" / KEY).is_symlink()
    assert Store(tmp_path / "other", published=tmp_path / "none").get(EXPERIMENT) == record


@pytest.mark.parametrize("name", ["spaces", "other letters", "bytes that are no text"])
def test_a_terminal_that_cannot_print_the_path_ends_no_run(tmp_path, tiny_layouts, monkeypatch, name):
    """As with LC_ALL=en_US.ISO-8859-1, or a pipe of that encoding."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    train = ["train", "circularnet", "--data", "layouts", "--recipe", "smoke", "--epochs", "1", "--device", "cpu"]
    assert cli.main([*train, "--runs", str(tmp_path / NAMES[name])]) == 0
    said = out.buffer.getvalue().decode("ascii")
    assert "top-1 error" in said and "\\" in said  # escaped
    (tmp_path / NAMES[name] / "a file").touch()
    assert cli.main([*train, "--runs", str(tmp_path / NAMES[name] / "a file")]) == 1
    assert b"Cannot write in" in err.buffer.getvalue()
    assert cli.main(["runs", "--runs", str(tmp_path / NAMES[name])]) == 0


@pytest.mark.parametrize("name", ["out", "out/record.json", "in/../../other", "..", "loop"])
def test_a_name_or_link_that_leaves_the_root_is_refused(tmp_path, name):
    """`files.child` is what a name from outside goes through."""
    root = tmp_path / "runs"
    for folder in (root / "own", tmp_path / "other"):
        folder.mkdir(parents=True)
        (folder / "record.json").touch()
    for link, target in {"out": tmp_path / "other", "loop": root / "loop", "in": root / "own"}.items():
        (root / link).symlink_to(target)
    with pytest.raises(OutOfRange, match="leaves the folder"):
        files.child(root, name)
    assert (
        files.child(root, "in/record.json") == (root / "own" / "record.json").resolve()
    )  # witness: inside it leads on
