"""The steps that `bench train` compares train the same network; every entry tells its peer and its ratio."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from workbench import cli
from workbench.bench import packs, steps, text, train
from workbench.bench.breakdown import breakdown, seconds, under
from workbench.bench.settings import Settings, random_split
from workbench.bench.timing import computing, interleaved
from workbench.errors import OutOfRange

CPU = torch.device("cpu")
SPLITS = random_split(16, 32), random_split(4, 32)


def settings(**given):
    return Settings(**{"data_dir": Path("nowhere"), "model": "resnet20", "batch": 4, "rounds": 1} | given)


def weights(case):
    """The weights that a case's closure trains."""
    found = [cell.cell_contents for cell in case.__closure__]
    (network,) = [value for value in found if isinstance(value, torch.nn.Module)]
    return network.state_dict()


def test_ours_and_the_plain_loop_make_the_same_step():
    training = steps.made(SPLITS, settings(), "float32")
    case = steps.plain(SPLITS, settings(), "float32", torch.channels_last)
    start = {name: value.clone() for name, value in weights(case).items()}
    steps.ours(training, 1)(), case()
    ours, theirs = training.plain.state_dict(), weights(case)
    assert all(
        torch.equal(start[name], value) for name, value in steps.network(SPLITS, settings()).state_dict().items()
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(ours["conv1.weight"], start["conv1.weight"], rtol=1e-5, atol=1e-7)  # witness


def test_the_plain_loop_leaves_the_settings_of_pytorch_as_they_were():
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.allow_tf32
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.allow_tf32 = False
        with steps.pytorchs_own():
            assert not torch.are_deterministic_algorithms_enabled() and cudnn.benchmark and cudnn.allow_tf32
        assert torch.are_deterministic_algorithms_enabled() and not cudnn.allow_tf32
        assert cudnn.benchmark == before[1]
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.allow_tf32 = before[2]


def test_every_entry_has_its_peer_and_its_ratio():
    found = list(train.entries(SPLITS, settings()))
    pairs = [(entry["name"], entry["peer"]) for entry in found]
    assert pairs[:2] == [("bf16", "plain float32"), ("float32", "plain float32")]
    assert pairs[2:] == [("bf16", "plain bf16"), ("bf16", "plain bf16 channels_last")]
    for entry in found:
        assert entry["ratio"] == entry["peer_s"] / entry["time_s"]
        assert entry["hours_300_epochs"] == pytest.approx(entry["time_s"] * 12_500 * 300 / 3600)
        assert "floor_percent" not in entry  # no peak is known of a CPU


def test_the_floor_is_the_arithmetic_over_the_peak(monkeypatch):
    monkeypatch.setattr(steps, "device_name", lambda device: "NVIDIA H200 NVL")
    seconds = {"bf16": 0.002, "float32": 0.004, "peer": 0.01}
    entry = steps.compared("bf16", "peer", seconds, SPLITS, settings(batch=64))
    assert entry["ratio"] == 5 and entry["steps_per_s"] == 500
    operations = 6 * 40_551_040 * 64  # of ResNet-20, 40.55 million multiply-adds a picture
    assert entry["floor_percent"] == pytest.approx(100 * operations / 989e12 / 0.002, rel=1e-3)
    assert "floor_percent" not in steps.compared("float32", "peer", seconds, SPLITS, settings())


def test_packed_runs_make_all_their_steps():
    runs = [steps.made(SPLITS, settings(), "float32") for _ in range(2)]
    done = packs.finished(runs, 3)
    assert {id(run) for run in done} == {id(run) for run in runs}
    assert [run.position for run in runs] == [3, 3]
    alone = steps.made(SPLITS, settings(), "float32")
    steps.ours(alone, 3)()
    (entry,) = packs.packs(SPLITS, settings(), (2,))
    assert entry["name"] == "2 runs together" and entry["peer"] == packs.ONE and entry["ratio"] > 0
    for run in runs:
        same = [torch.equal(a, b) for a, b in zip(run.plain.parameters(), alone.plain.parameters(), strict=True)]
        assert all(same)
    steps.ours(alone, 1)()
    first = next(alone.plain.parameters())
    assert not torch.equal(first, next(runs[0].plain.parameters()))  # witness


@pytest.mark.slow
def test_processes_are_under_way_together(tmp_path):
    found = list(packs.apart(SPLITS, settings(data_dir=tmp_path), (2,)))
    assert [entry["name"] for entry in found] == ["2 processes"] and found[0]["ratio"] > 0


def test_the_parts_of_a_step_make_up_the_whole():
    found = list(breakdown("resnet20", steps.made(SPLITS, settings()), 2))
    parts = {entry["part"]: entry for entry in found if "step" in entry["name"]}
    assert [*parts] == ["data", "forward", "guard", "optimizer", "loss, backward, rest", "all"]
    assert all(entry["time_s"] > 0 for entry in parts.values())
    total = parts.pop("all")
    assert total["percent"] == pytest.approx(100) and sum(e["percent"] for e in parts.values()) == pytest.approx(100)
    assert sum(parts[part]["time_s"] for part in ("forward", "loss, backward, rest")) > parts["data"]["time_s"]
    operators = [entry for entry in found if "operator" in entry["name"]]
    assert len(operators) == 10 and "aten::convolution_backward" in [entry["part"] for entry in operators]
    assert sum(entry["percent"] for entry in operators) <= 100


def test_of_a_gpu_kernels_count_and_the_twins_of_ranges_do_not():
    def event(name, *kernels, children=()):
        timed = [SimpleNamespace(name=kernel, duration=duration) for kernel, duration in kernels]
        return SimpleNamespace(name=name, kernels=timed, cpu_children=children)

    norm = event("aten::batch_norm", children=[event("aten::cudnn_batch_norm", ("bn_kernel", 3e6))])
    forward = event("forward", ("forward", 9e6), children=[event("aten::conv2d", ("gemm", 2e6)), norm])
    assert seconds(forward, gpu=True) == 0 and under(forward, gpu=True) == 5
    assert seconds(forward.cpu_children[0], gpu=True) == 2  # witness: other kernels count


def test_a_step_that_is_profiled_is_the_step():
    """The names put around its parts change no bit."""
    plain, opened = (steps.made(SPLITS, settings()) for _ in range(2))
    list(breakdown("resnet20", opened, 2))
    steps.ours(plain, opened.position)()
    pairs = zip(plain.plain.parameters(), opened.plain.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    plain.step()
    assert not torch.equal(next(plain.plain.parameters()), next(opened.plain.parameters()))  # witness


def test_what_fails_is_an_entry_and_the_rest_is_kept():
    def found():
        yield {"name": "first"}
        raise RuntimeError("no such kernel\nat a.cu:3")

    entries = list(train.tried("compiled", found()))
    assert entries == [{"name": "first"}, {"name": "compiled", "failed": "RuntimeError: no such kernel"}]
    assert text.line(entries[1]).endswith("failed: RuntimeError: no such kernel")
    with pytest.raises(ZeroDivisionError):  # witness: our own mistakes are not hidden
        list(train.tried("compiled", (1 // 0 for _ in "a")))


def test_clock_and_preparation_of_interleaved():
    calls = []
    cases = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = interleaved(cases, 2, CPU, computing, lambda name: calls.append(name.upper()))
    assert calls == [*"AaBbBbAaAaBbBbAa"] and times.keys() == {"a", "b"}


def run(capsys, *words):
    return cli.main(["bench", *words]), *capsys.readouterr()


def test_the_command_prints_json_alone_on_stdout(capsys, monkeypatch):
    monkeypatch.setattr("workbench.bench.settings.COUNT", 8)
    words = ("train", "--model", "resnet20", "--batch", "4", "--rounds", "1", "--data-dir", "nowhere")
    code, out, err = run(capsys, *words, "--json")
    printed = json.loads(out)
    assert code == 0 and len(printed["entries"]) == 4 and all(entry["ratio"] for entry in printed["entries"])
    assert printed["machine"]["pictures"].startswith("random bytes") and printed["machine"]["model"] == "resnet20"
    assert "the time of plain float32 over ours is" in err


def test_json_keeps_what_was_measured_before_a_failure(capsys, monkeypatch):
    def broken(*given):
        yield {"name": "kept", "failed": "RuntimeError: nothing"}
        raise OutOfRange("no more")

    monkeypatch.setattr("workbench.bench.train.entries", broken)
    monkeypatch.setattr("workbench.bench.settings.COUNT", 8)
    code, out, err = run(capsys, "train", "--data-dir", "nowhere", "--json")
    assert code == 2 and [entry["name"] for entry in json.loads(out)["entries"]] == ["kept"]
    assert err.endswith("workbench: no more\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--rounds", "0"), "--rounds 0: give at least 1."),
        (("--batch", "0"), "--batch 0: give at least 1."),
        (("--workers", "0"), "--workers 0: give at least 1."),
    ],
)
def test_settings_out_of_range(capsys, words, sentence):
    assert run(capsys, "data", *words) == (2, "", f"workbench: {sentence}\n")
