"""Runs on disk, named by content: runs/<key>/{spec.json, log.jsonl, run.lock, ckpt/, record.json}.

record.json is written once, last, atomically; it is the only meaning of "done".
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workbench import datasets, files
from workbench.errors import Corrupt, Diverged
from workbench.experiments.experiment import HERE, PROJECT, Experiment, Record
from workbench.files import read_json, write_atomic, write_json

log = logging.getLogger(__name__)


class Store:
    """The runs folder of this machine, and the records that come with the project, read only."""

    def __init__(self, root: Path | str | None = None, data: Path | str | None = None, published: Path | None = None):
        self.root = files.runs_dir(root)
        self.data = files.data_dir(data)
        self.published = files.share("data") / "results" if published is None else published

    def get(self, experiment: Experiment) -> Record | None:
        """The record of this experiment in the runs folder, or None while it is not done there."""
        return self._read(self.root / experiment.key() / "record.json", aside=False)

    def run(
        self,
        experiment: Experiment,
        device: str = "auto",
        on_step: Callable[[Any], Any] = lambda training: None,
        on_epoch: Callable[[Any], Any] = lambda training: None,
    ) -> Record:
        """The record; trains first, from the newest checkpoint, if there is none yet."""
        if record := self.get(experiment):
            return record
        root = files.ensure_writable(self.root)
        splits = datasets.load(experiment.dataset, self.data)  # before anything is written
        folder = root / experiment.key()
        folder.mkdir(exist_ok=True)
        with files.lock(folder / "run.lock"):
            if record := self._read(folder / "record.json", aside=True):  # done by who held the lock before
                return record
            return self._train(experiment, splits, folder, device, on_step, on_epoch)

    def records(self) -> Iterator[Record]:
        """Every finished run in the runs folder, then every record that comes with the project."""
        for origin, paths in ((HERE, self.root.glob("*/record.json")), (PROJECT, self.published.glob("*.json"))):
            for path in sorted(paths):
                if record := self._read(path, aside=False):
                    yield record._replace(origin=origin)

    def unfinished(self) -> Iterator[tuple[str, dict[str, Any], list[dict[str, float]]]]:
        """Key, spec and epochs so far of every run without a record."""
        for path in sorted(self.root.glob("*/spec.json")):
            if not self._read(path.with_name("record.json"), aside=False):
                journal = path.parent / "log.jsonl"
                lines = journal.read_text().splitlines() if journal.exists() else []
                try:
                    spec = read_json(path)
                except Corrupt as error:
                    log.warning("%s", error)
                    continue
                yield path.parent.name, spec, [json.loads(line) for line in lines if line.endswith("}")]

    def _train(
        self, experiment: Experiment, splits: tuple, folder: Path, device: str, on_step: Callable, on_epoch: Callable
    ) -> Record:
        import torch

        from workbench.build import build
        from workbench.training.checkpoint import Checkpoints
        from workbench.training.environment import environment
        from workbench.training.loop import Training

        key, spec = experiment.key(), experiment.spec()
        write_json(folder / "spec.json", spec)
        train, test = splits
        torch.manual_seed(experiment.seed)
        network = build(experiment.model, len(train.classes), train.pictures.shape[1])
        training = Training(network, train, test, experiment.recipe, experiment.seed, device)
        checkpoints = Checkpoints(folder / "ckpt", key)
        if found := checkpoints.load():
            training.load_state(*found)
        journal = folder / "log.jsonl"
        write_atomic(journal, b"".join(_line(entry) for entry in training.history))

        def after_epoch(training: Training) -> None:
            with open(journal, "ab") as f:
                f.write(_line(training.history[-1]))
            on_epoch(training)

        status, note = "done", ""
        try:
            training.run(checkpoints, after_epoch, on_step)
        except Diverged as error:
            status, note = "diverged", str(error)
        history = training.history
        metrics = summary(history) if status == "done" else {}
        surroundings = environment(training.accelerator.device) | {"machines": training.machines}
        record = Record(key, spec, status, metrics, history, surroundings, round(training.elapsed_s, 3), note)
        write_json(folder / "record.json", {key: value for key, value in record._asdict().items() if key != "origin"})
        return record

    @staticmethod
    def _read(path: Path, aside: bool) -> Record | None:
        """The record in `path`; a damaged one counts as absent, and `aside` keeps it as *.bad."""
        try:
            return _record(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Corrupt as error:
            bad = path.with_name(path.name + ".bad")
            log.warning("%s It counts as not done%s.", error, f" and is kept as {bad.name}" if aside else "")
            if aside:
                os.replace(path, bad)
            return None


def _record(path: Path) -> Record:
    fields = read_json(path)
    try:
        record = Record(**fields)
    except TypeError as error:
        raise Corrupt(f"{path} is not a record ({error}).") from error
    if path.name == "record.json" and record.key != path.parent.name:
        raise Corrupt(f"{path} is the record of another run, {record.key}.")
    return record


def summary(history: list[dict[str, float]]) -> dict[str, float]:
    """Errors after the last epoch, and the best over epochs, which the papers often print and which is optimistic."""
    last = history[-1]
    return {
        "top1_error": last["test_top1_error"],
        "top5_error": last["test_top5_error"],
        "best_top1_error": min(entry["test_top1_error"] for entry in history),
    }


def _line(entry: dict[str, float]) -> bytes:
    return (json.dumps(entry, allow_nan=False) + "\n").encode()
