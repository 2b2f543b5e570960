"""Several processes are one run: its loss curve, its weights, its files."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from workbench.build import build
from workbench.datasets import layouts
from workbench.errors import Interrupted, OutOfRange
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training import loop
from workbench.training.loop import Training
from workbench.training.recipe import Recipe

RECIPE = Recipe(batch=32, epochs=2, lr=0.05)  # 2 epochs of 10 steps


@pytest.fixture
def processes(forked):
    """processes(action): run action(rank) in two processes that know each other, as torchrun starts them."""

    def run(action):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

        def child(rank):
            os.environ.update(common, RANK=str(rank), LOCAL_RANK=str(rank))
            AcceleratorState._reset_state(reset_partial_state=True)  # what this process did before it was forked
            action(rank)
            torch.distributed.destroy_process_group()

        other = os.fork()
        if other == 0:
            os._exit(forked(lambda: child(1)) % 256)
        return forked(lambda: child(0)), os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])

    return run


def small_layouts():
    return layouts.make(320, seed=0), layouts.make(65, seed=1)  # 65 cannot be shared out equally


def train(model, device="cpu", recipe=RECIPE):
    """The history of a run, with the loss of each step, and its state."""
    train, test = small_layouts()
    torch.manual_seed(3)
    training = Training(build(model, 32, 16), train, test, recipe, 7, device)
    losses = []
    training.run(on_step=lambda training: losses.append(float(training.update.last[1])))
    return training.history, losses, training.plain.state_dict()


def curves(history):
    return torch.tensor([[line["train_loss"], line["test_loss"]] for line in history], dtype=torch.float64)


@pytest.mark.parametrize("model", ["cra3-circularnet", "dca-se[reduction=4]-circularnet"])
def test_two_processes_have_the_loss_curve_of_one_with_the_whole_batch(tmp_path, processes, model):
    """Within 1e-4 of the loss over 20 steps: sums are taken in another order, and training amplifies that."""

    def action(rank):
        history, norms, state = train(model)
        (tmp_path / f"{rank}.json").write_text(json.dumps([history, norms, {k: v.tolist() for k, v in state.items()}]))

    assert processes(action) == (0, 0)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]  # every process has all of it
    history, norms, state = train(model)
    torch.testing.assert_close(curves(found[0][0]), curves(history), rtol=1e-4, atol=0)
    assert found[0][0][-1]["test_top1_error"] == pytest.approx(history[-1]["test_top1_error"], abs=2)
    torch.testing.assert_close(torch.tensor(found[0][1][:5]), torch.tensor(norms[:5]), rtol=1e-4, atol=0)
    for name, value in state.items():
        torch.testing.assert_close(torch.tensor(found[0][2][name]), value, rtol=0, atol=2e-3, check_dtype=False)
    half, *_ = train(model, recipe=Recipe(batch=16, epochs=2, lr=0.05))
    with pytest.raises(AssertionError):  # witness: half of the batch is another run
        torch.testing.assert_close(curves(half), curves(history), rtol=1e-2, atol=0)


def test_without_the_statistics_of_the_whole_batch_the_curve_is_another(tmp_path, processes):
    """Witness of BN over all processes."""

    def action(rank):
        from workbench.training import processes

        processes._synchronise = lambda network: None
        history, *_ = train("circularnet")
        (tmp_path / f"{rank}.json").write_text(json.dumps(history))

    assert processes(action) == (0, 0)
    apart = curves(json.loads((tmp_path / "0.json").read_text()))
    assert not torch.allclose(apart, curves(train("circularnet")[0]), rtol=1e-4, atol=0)


EXPERIMENT = Experiment(model="se[reduction=4]-circularnet", dataset="layouts", recipe=RECIPE, seed=1)


def stored(root, action=lambda training: None):
    layouts.load = small_layouts
    return Store(root).run(EXPERIMENT, "cpu", on_step=action)


def test_only_the_main_process_writes_and_all_have_the_record(tmp_path, processes):
    def action(rank):
        opened = []
        if rank:
            sys.addaudithook(lambda event, given: opened.append(given[:2]) if event == "open" else None)
        record = stored(tmp_path / "runs")
        assert record.status == "done" and record.environment["processes"] == 2
        assert not [
            path for path, mode in opened if str(path).startswith(str(tmp_path)) and mode not in ("r", "rb", None)
        ]

    assert processes(action) == (0, 0)
    record = Store(tmp_path / "runs").get(EXPERIMENT)
    assert len(record.curves) == 2 and record.environment["processes"] == 2
    before = (tmp_path / "runs" / EXPERIMENT.key() / "record.json").read_bytes()
    assert processes(action) == (0, 0)  # done already: told to all
    assert (tmp_path / "runs" / EXPERIMENT.key() / "record.json").read_bytes() == before


def test_a_signal_to_one_process_stops_all_and_two_processes_continue(tmp_path, processes):
    def action(rank):
        def stop(training):
            if training.position == 13 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted, match="step 13"):
            stored(tmp_path / "stopped", stop)

    assert processes(action) == (0, 0)
    assert Store(tmp_path / "stopped").get(EXPERIMENT) is None
    assert processes(lambda rank: stored(tmp_path / "stopped")) == (0, 0)
    assert processes(lambda rank: stored(tmp_path / "whole")) == (0, 0)
    stopped, whole = (Store(tmp_path / name).get(EXPERIMENT) for name in ("stopped", "whole"))
    assert stopped.curves == whole.curves  # the same bits as two processes in one piece


def test_a_batch_that_cannot_be_shared_out_is_refused(processes):
    def action(rank):
        with pytest.raises(OutOfRange, match=r"Batch 31 .* 2 processes"):
            train("circularnet", recipe=Recipe(batch=31, epochs=1, lr=0.1))

    assert processes(action) == (0, 0)
    assert train("circularnet", recipe=Recipe(batch=31, epochs=1, lr=0.1))  # witness


@pytest.mark.slow
def test_torchrun_as_the_readme_says(tmp_path):
    words = ["train", "se-circularnet", "--data", "layouts", "--recipe", "smoke", "--epochs", "1", "--device", "cpu"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "workbench"]
    done = subprocess.run([*launch, *words, "--runs", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1/1") == 1  # said once
    [record] = Store(tmp_path, published=tmp_path / "none").records()
    assert record.environment["processes"] == 2


def test_alone_nothing_is_asked_of_anyone(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *given: pytest.fail("asked"))
    history, *_ = train("circularnet")
    assert len(history) == 2 and loop.Processes("cpu").count == 1


def test_each_run_is_asked_anew_where_it_trains(monkeypatch):
    """A device that is everywhere stands in for a GPU."""
    assert loop.Processes("cpu").device.type == "cpu"
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    assert loop.Processes("auto").device.type == "meta"
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE")
    assert loop.Processes("auto").device.type != "meta"


@pytest.mark.parametrize(
    ("name", "value"), [("ACCELERATE_MIXED_PRECISION", "bf16"), ("ACCELERATE_DYNAMO_BACKEND", "eager")]
)
def test_what_accelerate_is_configured_for_changes_no_number(monkeypatch, name, value):
    """`accelerate launch` exports what its user once answered `accelerate config`; the recipe says the precision."""
    network, x = nn.Linear(64, 8), torch.randn(4, 64)
    plain, twin = network(x), copy.deepcopy(network)
    monkeypatch.setenv(name, value)
    joined = loop.Processes("cpu").join(network)
    assert joined is network and torch.equal(joined(x), plain)
    AcceleratorState._reset_state(reset_partial_state=True)
    changed = Accelerator(cpu=True).prepare(twin)  # witness: Accelerate itself would heed it
    assert changed is not twin or not torch.equal(changed(x), plain)
