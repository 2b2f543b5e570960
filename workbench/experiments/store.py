"""Runs on disk, named by content: runs/<key>/{spec.json, log.jsonl, run.lock, ckpt/, record.json}.

record.json is written once, last, atomically; it is the only meaning of "done".
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from workbench import datasets, files
from workbench.errors import Corrupt, DataMissing, Diverged
from workbench.experiments import begin
from workbench.experiments.experiment import HERE, PROJECT, Experiment, Record, outdated
from workbench.files import read_json, write_atomic, write_json

log = logging.getLogger(__name__)


class Store:
    """The runs folder of this machine, and the records that come with the project, read only."""

    def __init__(self, root: Path | str | None = None, data: Path | str | None = None, published: Path | None = None):
        self.root = files.runs_dir(root)
        self.data = files.data_dir(data)
        self.published = files.share("data") / "results" if published is None else published

    @property
    def models(self) -> Path:
        """Where the weights that come with the project lie: beside its records."""
        return self.published.parent / "models"

    def get(self, experiment: Experiment) -> Record | None:
        """The record of this experiment in the runs folder, or None while it is not done there."""
        return self._read(self.root / experiment.key() / "record.json", aside=False)

    def trained(self, experiment: Experiment) -> Any:
        """The network with the weights of its last checkpoint, in eval mode; raises DataMissing while there is none."""
        from workbench.build import build
        from workbench.training.state import alike

        weights = self.weights(experiment.key())
        network = build(experiment.model, datasets.classes(experiment.dataset), checked=False)
        alike(weights, network.state_dict())
        network.load_state_dict(weights)
        return network.eval()

    def weights(self, key: str) -> dict[str, Any]:
        """Parameters and buffers in the last checkpoint of a run here; raises DataMissing while there is none."""
        from workbench.training.checkpoint import Checkpoints

        folder = self.root / key / "ckpt"
        found = Checkpoints(folder, key).load(continued=False) if folder.is_dir() else None
        if found is None:
            raise DataMissing(
                f"No weights of {key} in {folder}. Train it here: records that came without their run "
                "folder have numbers alone."
            )
        return found[0]["model"]

    def run(self, experiment: Experiment, *given: Any, **named: Any) -> Record:
        """The record; trains first, from the newest checkpoint, if there is none yet.  Takes what `turns` takes."""
        turns = self.turns(experiment, *given, **named)
        while True:
            try:
                next(turns)
            except StopIteration as end:
                return end.value

    def turns(
        self,
        experiment: Experiment,
        device: str = "auto",
        on_step: Callable[[Any], Any] = lambda training: None,
        on_epoch: Callable[[Any], Any] = lambda training: None,
        compiled: bool = False,
        workers: int = 0,
        recorded: bool = True,
    ) -> Generator[None, None, Record]:
        """`run` in turns, so that several runs can share a process; see training/together.py.

        device, compiled, workers, recorded: how this machine does it; see training/loop.py.
        """
        if (record := self.get(experiment)) and not several():
            return record
        from workbench.training.checkpoint import Checkpoints
        from workbench.training.processes import Processes
        from workbench.training.refusals import check_workers

        check_workers(workers)
        processes = Processes(device)
        with contextlib.ExitStack() as held:
            checkpoints = Checkpoints(self.root / experiment.key() / "ckpt", experiment.key())
            claim = self._claim(experiment, checkpoints, held, processes) if processes.main else (None, None, None)
            record, splits, found = claim
            if processes.count > 1:
                record, found = self._told(processes, record, found)
            if record:
                return record
            splits = splits or begin.splits(experiment, self.data)
            training = begin.training(experiment, splits, processes, (compiled, workers, recorded), self)
            if found:
                training.load_state(*found)
            done = yield from self._train(experiment, training, checkpoints, on_step, on_epoch)
            return done

    def _claim(
        self, experiment: Experiment, checkpoints: Any, held: contextlib.ExitStack, processes: Any
    ) -> tuple[Record | None, Any, Any]:
        """The record, if another process wrote it meanwhile; else the data, and the newest checkpoint or None.

        Nothing is written before the data are there, and enough for a batch; the run is locked until `held` ends.
        """
        from workbench.training.refusals import check_batch

        root = files.ensure_writable(self.root)
        splits = begin.splits(experiment, self.data)
        check_batch(experiment.recipe, len(splits[0]), processes.count)
        begin.check_backbone(experiment, self)
        folder = root / experiment.key()
        files.ensure_writable(folder / "ckpt")  # with the folder itself
        held.enter_context(files.lock(folder / "run.lock"))
        if record := self._read(folder / "record.json", aside=True):  # done by who held the lock before
            return record, None, None
        return None, splits, checkpoints.load()

    def _told(self, processes: Any, record: Record | None, found: Any) -> tuple[Record | None, Any]:
        """The main process's record and checkpoint, in every process."""
        from workbench.training.state import pack, unpack

        tensors, scalars = found or ({}, None)
        sent = pack(tensors, {"record": record and record._asdict(), "scalars": scalars}) if processes.main else b""
        tensors, received = unpack(processes.told(sent))
        record = Record(**received["record"]) if received["record"] else None
        return record, (tensors, received["scalars"]) if received["scalars"] else None

    def records(self) -> Iterator[Record]:
        """Every finished run in the runs folder, then every record that comes with the project; none that is stale."""
        return (record for record in self._records() if not outdated(record.spec))

    def stale(self) -> Iterator[tuple[Record, list[str]]]:
        """Records made by other code, of other data or another recipe under the same name, and what differs."""
        return ((record, parts) for record in self._records() if (parts := outdated(record.spec)))

    def _records(self) -> Iterator[Record]:
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
        self, experiment: Experiment, training: Any, checkpoints: Any, on_step: Callable, on_epoch: Callable
    ) -> Generator[None, None, Record]:
        """Train to the end; the main process writes checkpoints, journal and record."""
        from workbench.training.environment import environment

        key, processes = experiment.key(), training.processes
        journal = self.root / key / "log.jsonl"
        if processes.main:
            write_json(journal.with_name("spec.json"), experiment.spec())  # from here on it is a run, if unfinished
            write_atomic(journal, b"".join(_line(entry) for entry in training.history))

        def after_epoch(training: Any) -> None:
            if processes.main:
                write_atomic(journal, b"".join(_line(entry) for entry in training.history))
            on_epoch(training)

        status, note = "done", ""
        try:
            yield from training.turns(checkpoints, after_epoch, on_step)
        except Diverged as error:
            status, note = "diverged", str(error)
        history = training.history
        metrics = summary(history) | begin.learned(training) if status == "done" else {}
        machine = environment(training.device, training.compiled, processes.count) | {"machines": training.machines}
        record = Record(key, experiment.spec(), status, metrics, history, machine, round(training.elapsed_s, 3), note)
        if processes.main:
            write_json(
                journal.with_name("record.json"), {name: v for name, v in record._asdict().items() if name != "origin"}
            )
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
    """Errors after the last epoch, and the best over epochs, which the papers often print and which is optimistic.

    Of a detector: what COCO calls AP after the last epoch.
    """
    last = history[-1]
    if "test_top1_error" not in last:
        return {key.removeprefix("test_"): value for key, value in last.items() if key.startswith("test_")}
    return {
        "top1_error": last["test_top1_error"],
        "top5_error": last["test_top5_error"],
        "best_top1_error": min(entry["test_top1_error"] for entry in history),
    }


def _line(entry: dict[str, float]) -> bytes:
    return (json.dumps(entry, allow_nan=False) + "\n").encode()


def several() -> bool:
    """Is this one of several processes of a run, as torchrun and accelerate launch start them?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
