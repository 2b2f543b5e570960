"""Runs on disk: done once, found again, never mixed, and held by one process."""

import json
import os
import signal

import pytest

from workbench import files
from workbench.errors import Busy, DataMissing, OutOfRange
from workbench.experiments.experiment import HERE, PROJECT, Experiment, Record
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe


def experiment(**changes):
    recipe = Recipe(batch=64, epochs=2, lr=0.1)  # 2 epochs of 5 steps
    return Experiment(**{"model": "circularnet", "dataset": "layouts", "recipe": recipe, "seed": 0} | changes)


def made_up(one, top1_error=50.0):
    """A record of `one` that nobody trained."""
    metrics = {"top1_error": top1_error, "top5_error": 10.0, "best_top1_error": top1_error}
    return Record(one.key(), one.spec(), "done", metrics, [], {"device": "none"}, 1.0)


def publish(folder, record):
    folder.mkdir(exist_ok=True)
    path = folder / f"{record.key}.json"
    files.write_json(path, record._asdict())
    return path


def fail(training):
    pytest.fail("trained")


@pytest.fixture
def store(tmp_path, tiny_layouts):
    return Store(tmp_path / "runs", published=tmp_path / "published")


def test_a_run_is_done_once(store):
    steps = []
    first = store.run(experiment(), device="cpu", on_step=lambda training: steps.append(training.position))
    assert steps == list(range(1, 11)) and first.status == "done"
    path = store.root / experiment().key() / "record.json"
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert store.run(experiment(), device="cpu", on_step=fail, on_epoch=fail) == first == store.get(experiment())
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_two_stores_train_the_same_run_to_the_same_numbers(store, tmp_path):
    one = store.run(experiment(), device="cpu")
    other = Store(tmp_path / "elsewhere", published=tmp_path / "published").run(experiment(), device="cpu")
    assert one._replace(duration_s=0) == other._replace(duration_s=0)
    third = store.run(experiment(seed=1), device="cpu")
    assert third.curves != one.curves and third.key != one.key  # witness


def test_a_record_says_what_came_out_and_where(store):
    epochs = []
    record = store.run(experiment(), device="cpu", on_epoch=lambda training: epochs.append(len(training.history)))
    assert epochs == [1, 2] and len(record.curves) == 2 and record.spec == experiment().spec()
    last = record.curves[-1]
    assert record.metrics["top1_error"] == last["test_top1_error"]
    assert record.metrics["top5_error"] == last["test_top5_error"]
    assert record.metrics["best_top1_error"] == min(line["test_top1_error"] for line in record.curves)
    assert {"device", "threads", "compiled", "torch", "code"} <= set(record.environment) and record.duration_s > 0
    folder = store.root / record.key
    assert {path.name for path in folder.iterdir()} == {"spec.json", "log.jsonl", "run.lock", "ckpt", "record.json"}
    assert json.loads((folder / "spec.json").read_text()) == record.spec
    assert [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] == record.curves


def test_a_journal_with_extra_lines_is_cut_back(store):
    class Stop(Exception):
        pass

    def stop(training):
        raise Stop

    with pytest.raises(Stop):
        store.run(experiment(), device="cpu", on_epoch=stop)
    journal = store.root / experiment().key() / "log.jsonl"
    first = journal.read_text()
    assert first.count("\n") == 1
    journal.write_text(first * 4 + '{"epo')
    record = store.run(experiment(), device="cpu")
    assert journal.read_text().startswith(first)
    assert [json.loads(line) for line in journal.read_text().splitlines()] == record.curves


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"key": 1}', "\xff"], ids=repr)
def test_a_damaged_record_counts_as_absent_and_is_kept(store, caplog, content):
    store.run(experiment(), device="cpu")
    path = store.root / experiment().key() / "record.json"
    whole = path.read_bytes()
    path.write_bytes(content.encode("latin1"))
    assert store.get(experiment()) is None and experiment().key() in caplog.text  # which file, of which run
    assert not list(store.records()) and [key for key, *_ in store.unfinished()] == [experiment().key()]
    assert path.read_bytes() == content.encode("latin1")  # looking changes nothing
    again = store.run(experiment(), device="cpu", on_step=fail)  # the last checkpoint is whole: nothing to train
    assert "record.json.bad" in caplog.text
    assert path.with_name("record.json.bad").read_bytes() == content.encode("latin1")
    assert again._replace(duration_s=0) == Record(**json.loads(whole))._replace(duration_s=0)


def test_the_record_of_another_run_is_not_believed(store):
    """A record counts for the run that its key names, wherever someone copied it."""
    folder = store.root / experiment().key()
    folder.mkdir(parents=True)
    files.write_json(folder / "record.json", made_up(experiment(seed=1))._asdict())
    assert store.get(experiment()) is None
    files.write_json(folder / "record.json", made_up(experiment())._asdict())
    assert store.get(experiment()) == made_up(experiment())  # witness


def test_published_records_are_shown_and_do_not_stand_in_for_a_run(store):
    published = made_up(experiment())
    publish(store.published, published)
    assert list(store.records()) == [published._replace(origin=PROJECT)]
    assert store.get(experiment()) is None and not store.root.exists()


@pytest.mark.parametrize("damage", [None, "", "{}", '{"key": "x"'], ids=repr)
def test_published_records_are_never_written(store, damage):
    path = publish(store.published, made_up(experiment()))
    if damage is not None:
        path.write_text(damage)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.published.iterdir()}
    store.run(experiment(), device="cpu"), list(store.records())
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.published.iterdir()}


def test_records_of_this_machine_come_first_and_keep_their_origin(store):
    publish(store.published, made_up(experiment()))
    publish(store.published, made_up(experiment(seed=1)))
    folder = store.root / experiment().key()
    folder.mkdir(parents=True)
    files.write_json(folder / "record.json", made_up(experiment(), top1_error=40.0)._asdict())
    found = [(record.origin, record.key, record.metrics["top1_error"]) for record in store.records()]
    assert found[0] == (HERE, experiment().key(), 40.0) and len(found) == 3
    assert sorted(found[1:]) == sorted((PROJECT, experiment(seed=seed).key(), 50.0) for seed in (0, 1))
    assert store.get(experiment()).metrics["top1_error"] == 40.0


def test_a_stopped_run_is_shown_as_unfinished(store):
    assert not list(store.unfinished()) and not list(store.records())  # no folder at all
    shown = []
    store.run(experiment(), device="cpu", on_epoch=lambda training: shown.append(list(store.unfinished())))
    assert [len(lines) for [(_, _, lines)] in shown] == [1, 2]
    [(key, spec, lines)] = shown[0]
    assert key == experiment().key() and spec == experiment().spec() and lines[0]["epoch"] == 1
    assert not list(store.unfinished())  # witness: done


def test_a_second_process_is_told_busy_at_once_and_the_kernel_frees_the_lock(store, forked):
    """Held by a process that is then killed, so that nothing but the kernel can free it."""
    folder = store.root / experiment().key()
    folder.mkdir(parents=True)
    with files.lock(folder / "run.lock"):
        assert forked(lambda: store.run(experiment(), device="cpu", on_step=fail)) == Busy.exit_code
        with pytest.raises(Busy, match=experiment().key()):
            store.run(experiment(), device="cpu", on_step=fail)
    assert store.get(experiment()) is None

    def die(training):
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(lambda: store.run(experiment(), device="cpu", on_step=die)) == -signal.SIGKILL
    assert store.run(experiment(), device="cpu").status == "done"  # witness: free again


def test_other_runs_are_free_meanwhile(store):
    folder = store.root / experiment().key()
    folder.mkdir(parents=True)
    with files.lock(folder / "run.lock"):
        assert store.run(experiment(seed=1), device="cpu").status == "done"


def test_a_missing_data_set_stops_before_anything_is_written(tmp_path):
    store = Store(tmp_path / "runs", tmp_path / "nowhere", tmp_path / "published")
    with pytest.raises(DataMissing, match="nowhere"):
        store.run(experiment(dataset="cifar10", model="resnet20"), device="cpu")
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("recipe", "settings", "sentence"),
    [
        ({}, {"workers": -1}, "Workers -1: .*0 or more"),
        ({"batch": 321}, {}, "Batch 321 exceeds the 320 training pictures"),
    ],
    ids=["workers", "batch"],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(store, recipe, settings, sentence):
    one = experiment(recipe=Recipe(**{"batch": 320, "epochs": 1, "lr": 0.1} | recipe))
    with pytest.raises(OutOfRange, match=sentence):
        store.run(one, "cpu", **settings)
    assert not list(store.root.glob("*"))
    assert store.run(experiment(recipe=Recipe(batch=320, epochs=1, lr=0.1)), "cpu").status == "done"  # witness


def test_what_its_network_refuses_is_no_unfinished_run(store):
    one = experiment(model="bam-resnet20", recipe=Recipe(batch=2, epochs=1, lr=0.1, accumulate=2))
    with pytest.raises(OutOfRange, match="Batch 2 in 2 parts"):
        store.run(one, "cpu")
    assert not list(store.unfinished())


def test_the_environment_says_where_runs_and_data_lie(tmp_path, monkeypatch):
    assert Store().root == tmp_path / "runs" and Store().data == tmp_path / "data"
    assert Store(tmp_path / "other").root == tmp_path / "other"  # witness
    monkeypatch.delenv("WORKBENCH_RUNS")
    assert str(Store().root) == "runs"


@pytest.mark.parametrize("name", ["läufe und mehr", "実験", "x" * 200, "a/b/c"], ids=lambda name: name[:5])
def test_any_folder_name_will_do(tmp_path, tiny_layouts, name):
    record = Store(tmp_path / name, published=tmp_path).run(experiment(), device="cpu")
    assert record.status == "done"


def test_runs_may_be_a_link(tmp_path, tiny_layouts):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert Store(tmp_path / "link", published=tmp_path).run(experiment(), device="cpu").status == "done"
    assert (tmp_path / "disk" / experiment().key() / "record.json").exists()
