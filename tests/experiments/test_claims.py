"""Claims are judged by rules that were fixed before the runs, and every verdict can come out otherwise."""

import json
import re
from dataclasses import replace

import pytest
import torch

from workbench import files
from workbench.errors import Corrupt, UnknownName
from workbench.experiments import claims, evidence, laws, observed, printed, tables
from workbench.experiments.claims import Claim, judge, report, summary
from workbench.experiments.evidence import Comparison, decide, overall
from workbench.experiments.experiment import HERE, PROJECT, Experiment, Record
from workbench.experiments.store import Store
from workbench.files import write_json
from workbench.training.recipe import RECIPES

SOURCE = files.share("data") / "claims.toml"
ALL = {claim.id: claim for claim in claims.known()}
SHORT = RECIPES["cifar-short"]
TWINS = {"<7,7>": "cra8", "<5,5>": "cra5", "<3,3>": "cra3", "<1,1>": "cra1"}  # of cra-4, on resnet20
YES, NO, OPEN, NONE = evidence.VERDICTS

DECIDED = {
    "cra-parameters": YES,
    "cra-flops": NO,
    "cra-independent": YES,
    "cra-fits": NO,
    "cra-beats-both-printed": NO,
    "cra-drops": YES,
    "cra-saves": YES,
    "cra-grid-printed": NO,
    "cra-grid-of-one": YES,
    "dca-improves-printed": NO,
    "dca-gains": NO,
    "dca-gains-introduction": YES,
    "dca-zero-is-vanilla": NO,
    "dca-match-parameters": YES,
    "dca-channel-printed": YES,
    "dca-stage-3-numbers": NO,
    "aw-between-printed": YES,
    "aw-gains": YES,
    "aw-parameters": NO,
    "aw-sixteenth": YES,
    "aw-mobilenet-costs": YES,
    "aw-residual": YES,
    "aw-detects-printed": YES,
    "bridge-averages": NO,
}


@pytest.fixture
def store(tmp_path):
    (tmp_path / "published").mkdir()
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


@pytest.fixture
def save(store):
    """save(model, errors): a record for each, the seeds counted from 0."""

    def write(model, errors, dataset="cifar10", recipe=SHORT, device="CPU A", status="done", by=HERE, **more):
        for seed, error in enumerate(errors):
            experiment = Experiment(model=model, dataset=dataset, recipe=recipe, seed=seed)
            metrics = {"top1_error": error, "top5_error": error / 4, **more.get("metrics", {})}
            where = {"device": device, "threads": 1, "compiled": False, "code": "1f3a9c2e"}
            curves = more.get("curves", [])
            record = Record(experiment.key(), experiment.spec(), status, metrics, curves, where, 1.0)
            path = store.published / f"{record.key}.json"
            if by == HERE:
                path = store.root / record.key / "record.json"
                path.parent.mkdir(parents=True)
            write_json(path, {name: part for name, part in record._asdict().items() if name != "origin"})

    return write


@pytest.fixture
def grids(save):
    """grids({row: errors}): runs of the CIFAR twins of cra-4."""
    return lambda rows, **more: [save(f"{TWINS[row]}-resnet20", errors, **more) for row, errors in rows.items()]


def made(test, **fields):
    """A claim about cra-4."""
    return Claim("made", "CRA", "here", "said", "training", "cra-4", test, **{"metrics": ("top1_error",)} | fields)


def spread(mean, noise=0.1):
    return [mean - noise, mean, mean + noise, mean]


ROWS = ("<7,7>", "<5,5>", "<3,3>", "<1,1>")
PAIR = (("<7,7>", "<1,1>"),)
PAIRS = (("<7,7>", "<5,5>"), ("<3,3>", "<1,1>"))
SUM = ((1, "<7,7>"), (1, "<5,5>"), (-1, "<3,3>"), (-1, "<1,1>"))
WIDE = [5.0, 9.0, 14.0, 8.0]
LEVEL = {row: spread(9, 0.1 * i) for i, row in enumerate(ROWS)}
CASES = [
    (made("better", pairs=PAIR, effect=0.5), {"<7,7>": spread(8), "<1,1>": spread(9, 0.2)}, YES),
    (made("better", pairs=PAIR, effect=0.5), {"<7,7>": spread(9), "<1,1>": spread(8, 0.2)}, NO),
    (made("better", pairs=PAIR, effect=0.5), {"<7,7>": spread(8.7, 0.0), "<1,1>": spread(9, 0.0)}, NO),  # too small
    (made("better", pairs=PAIR, effect=0.5), {"<7,7>": WIDE, "<1,1>": spread(10)}, OPEN),
    (made("order", rows=ROWS, effect=0.5), {row: spread(8 + i, 0.1 * i) for i, row in enumerate(ROWS)}, YES),
    (made("order", rows=ROWS, effect=0.5), {row: spread(8 - i, 0.1 * i) for i, row in enumerate(ROWS)}, NO),
    (
        made("order", rows=ROWS, effect=0.5),
        LEVEL | {"<7,7>": spread(8), "<5,5>": spread(9.5), "<3,3>": spread(8.5)},
        NO,
    ),
    (made("order", rows=ROWS, effect=0.5), LEVEL | {"<7,7>": WIDE}, OPEN),
    (made("shrinks", pairs=PAIRS, effect=0.1), LEVEL | {"<7,7>": spread(7)}, YES),
    (made("shrinks", pairs=PAIRS, effect=0.1), LEVEL | {"<3,3>": spread(7)}, NO),
    (made("shrinks", pairs=PAIRS, effect=0.1), LEVEL | {"<3,3>": WIDE}, OPEN),
    (made("sum", terms=SUM, effect=0.1), LEVEL | {"<7,7>": spread(8)}, YES),  # lower errors are better
    (made("sum", terms=SUM, effect=0.1), LEVEL | {"<7,7>": spread(10)}, NO),
    (made("sum", terms=SUM, effect=0.1), LEVEL | {"<7,7>": WIDE}, OPEN),
    (made("no_worse", pairs=PAIR, margin=0.5), {"<7,7>": spread(9.2), "<1,1>": spread(9, 0.2)}, YES),
    (made("no_worse", pairs=PAIR, margin=0.5), {"<7,7>": spread(10), "<1,1>": spread(9, 0.2)}, NO),
    (made("no_worse", pairs=PAIR, margin=0.5), {"<7,7>": WIDE, "<1,1>": spread(9)}, OPEN),
    (made("alike", pairs=PAIR, margin=0.5), {"<7,7>": spread(9.2), "<1,1>": spread(9, 0.2)}, YES),
    (made("alike", pairs=PAIR, margin=0.5), {"<7,7>": spread(8), "<1,1>": spread(9, 0.2)}, NO),  # either way
    (made("alike", pairs=PAIR, margin=0.5), {"<7,7>": WIDE, "<1,1>": spread(9)}, OPEN),
    (made("above", rows=("<7,7>",), value=5.0, effect=0.1), {"<7,7>": spread(6)}, YES),
    (made("above", rows=("<7,7>",), value=7.0, effect=0.1), {"<7,7>": spread(6)}, NO),
    (made("above", rows=("<7,7>",), value=8.0, effect=0.1), {"<7,7>": WIDE}, OPEN),
    (made("below", rows=("<7,7>",), value=7.0, effect=0.1), {"<7,7>": spread(6)}, YES),
    (made("below", rows=("<7,7>",), value=5.0, effect=0.1), {"<7,7>": spread(6)}, NO),
    (made("below", rows=("<7,7>",), value=10.0, effect=0.1), {"<7,7>": WIDE}, OPEN),
    (made("near", rows=("<7,7>",), value=6.1, margin=0.5), {"<7,7>": spread(6)}, YES),
    (made("near", rows=("<7,7>",), value=5.0, margin=0.5), {"<7,7>": spread(6)}, NO),
    (made("near", rows=("<7,7>",), value=9.0, margin=0.5), {"<7,7>": WIDE}, OPEN),
]


@pytest.mark.parametrize(
    ("claim", "runs", "verdict"), CASES, ids=[f"{c.test}-{v}-{i}" for i, (c, _, v) in enumerate(CASES)]
)
def test_every_test_can_come_out_in_three_ways(store, grids, claim, runs, verdict):
    grids(runs)
    found = judge(claim, store)
    assert (found.verdict, found.n) == (verdict, 4), found.evidence
    assert "resnet20 twins, cifar10, 5 epochs" in found.evidence


def test_the_cases_are_all_tests_of_runs_in_all_verdicts():
    tests = {test for test, (kind, _) in claims.TESTS.items() if kind == "training"}
    assert {(claim.test, verdict) for claim, _, verdict in CASES} == {(t, v) for t in tests for v in (YES, NO, OPEN)}


def test_accuracies_are_better_when_higher(store, save):
    claim = Claim("made", "DCA", "", "", "training", "dca-2", "better", metrics=("top1_accuracy",), effect=0.1)
    save("se-resnet20", spread(9))
    save("dca-se-resnet20", spread(8, 0.2))
    assert judge(claim._replace(pairs=(("Direct", "SE-ResNet50"),)), store).verdict == YES
    assert judge(claim._replace(pairs=(("SE-ResNet50", "Direct"),)), store).verdict == NO


def test_one_seed_decides_nothing(store, grids):
    grids({"<7,7>": [1.0], "<1,1>": [90.0]})
    found = judge(ALL["cra-spatial"], store)
    assert (found.verdict, found.n) == (OPEN, 1)
    assert "one seed says nothing about the noise" in found.evidence


def test_nothing_measured(store):
    assert judge(ALL["cra-grid"], store) == (NONE, f"{evidence.NO_RUNS} {ALL['cra-grid'].note}", 0)


def test_a_law_that_fails_does_not_say_that_it_holds(monkeypatch):
    table = tables.load("cra-1")
    holds, sentence = laws.cra_independent(table)
    assert holds and "to the bit" in sentence
    monkeypatch.setattr(laws, "gates", lambda block, x: x.sum((1, 2, 3))[:, None].expand(-1, 4))  # of the whole map
    holds, sentence = laws.cra_independent(table)
    assert not holds and "the others change with it" in sentence


def test_procedural_pictures_never_decide(store, save):
    smoke = {"dataset": "layouts", "recipe": RECIPES["smoke"]}
    save("cra7-circularnet", spread(1), **smoke)
    save("cra1-circularnet", spread(90, 0.2), **smoke)
    found = judge(ALL["cra-spatial"], store)
    assert (found.verdict, found.n) == (NONE, 0)
    assert "decides nothing" in found.evidence
    save("cra8-resnet20", spread(1))  # witness: the same numbers at a protocol that counts
    save("cra1-resnet20", spread(90, 0.2))
    assert judge(ALL["cra-spatial"], store).verdict == YES


@pytest.mark.parametrize(
    "other",
    [{"device": "CPU B"}, {"recipe": replace(SHORT, epochs=6)}, {"by": PROJECT}, {"status": "diverged"}],
    ids=str,
)
def test_protocols_and_machines_are_never_mixed(store, grids, other):
    grids({"<7,7>": spread(8)})
    grids({"<1,1>": spread(9, 0.2)}, **other)
    assert judge(ALL["cra-spatial"], store).verdict == NONE


def test_the_best_protocol_with_two_seeds_decides(store, grids, save):
    own = {"dataset": "imagenette", "recipe": RECIPES["pictures"]}
    grids({"<7,7>": spread(8), "<1,1>": spread(9, 0.2)})
    assert judge(ALL["cra-spatial"], store).verdict == YES
    save("cra7-resnet50", [9.0], **own)
    save("cra1-resnet50", [8.0], **own)
    found = judge(ALL["cra-spatial"], store)
    assert found.verdict == YES and "Not counted: imagenette" in found.evidence


def test_a_better_protocol_outweighs(store, grids, save):
    own = {"dataset": "imagenette", "recipe": RECIPES["pictures"]}
    grids({"<7,7>": spread(8), "<1,1>": spread(9, 0.2)})
    save("cra7-resnet50", spread(9), **own)
    save("cra1-resnet50", spread(8, 0.2), **own)
    found = judge(ALL["cra-spatial"], store)
    assert found.verdict == NO and found.evidence.startswith("On resnet50, imagenette, 30 epochs")
    assert "cifar10, 5 epochs (budget cifar, here, CPU A, 1 thread): supported" in found.evidence


def test_of_two_alike_ones_own_runs_decide(store, grids):
    grids({"<7,7>": spread(9), "<1,1>": spread(8, 0.2)}, by=PROJECT)
    assert judge(ALL["cra-spatial"], store).verdict == NO
    grids({"<7,7>": spread(8), "<1,1>": spread(9, 0.2)})
    found = judge(ALL["cra-spatial"], store)
    assert found.verdict == YES and "(budget cifar, here, CPU A, 1 thread)" in found.evidence
    assert "(budget cifar, by the project, CPU A, 1 thread): contradicted" in found.evidence


def test_comparisons_may_have_a_protocol_each_and_their_rows_one(store, save):
    """DCA Table 7 has a recipe for RetinaNet and one for Cascade R-CNN, Bridge one for ResNet and one for SENet."""
    table, claim = tables.load("dca-7"), ALL["dca-detects"]
    for row in table.rows:
        ap = 41.0 if row.label.startswith("DCA") else 40.0
        metrics = {metric: ap for metric in claim.metrics}
        save(row.model, spread(0), "coco2017", table.recipe(row, "paper"), metrics=metrics)
    assert judge(claim, store).verdict == YES
    table = tables.load("bridge-1")
    curves = [{"epoch": 1, "test_top1_error": 9.0}]
    for row in table.rows:
        save(row.model, spread(9), "cifar10", table.recipe(row, "paper"), curves=curves)
    found = judge(ALL["bridge-se-above-resnet"], store)
    assert found.verdict == NONE and found.evidence.startswith(evidence.NO_PAIRS)


def test_all_comparisons_must_hold_and_one_against_is_enough(store, grids):
    claim = made("better", pairs=(("<7,7>", "<1,1>"), ("<5,5>", "<1,1>")), effect=0.5)
    grids({"<7,7>": spread(8), "<1,1>": spread(9, 0.2)})
    found = judge(claim, store)
    assert found.verdict == OPEN and "1 without runs" in found.evidence
    grids({"<5,5>": spread(10)})
    assert judge(claim, store).verdict == NO


def comparison(limit=1.0, rule="effect"):
    return Comparison("a against b", "top1_error", ((1, "a"), (-1, "b")), rule, limit)


def test_several_comparisons_make_each_interval_wider():
    values = [1.0, 2.0, 3.0]
    assert decide(comparison(), values).half_width == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # t table, 95 %, df 2
    assert decide(comparison(), values, among=5).half_width == pytest.approx(9.9248 / 3**0.5, rel=1e-4)  # 99 %
    clear = [2.0, 2.5, 3.0]
    assert decide(comparison(), clear).verdict == YES
    assert decide(comparison(), clear, among=5).verdict == OPEN
    yes, other = decide(comparison(), clear), decide(comparison(), values)
    assert (overall([yes], 1), overall([yes], 2), overall([yes, other], 2)) == (YES, OPEN, OPEN)


@pytest.mark.parametrize(("effect", "needed"), [(1.0, 10), (0.5, 34), (0.8, 15)])
def test_how_many_seeds_it_would_take(effect, needed):
    """n of a paired t test at 5 % with 80 % power, as in any table for d = 1, 0.5 and 0.8."""
    values = [-1.0, 0.0, 1.0]  # standard deviation 1
    assert decide(comparison(effect), values).needed == needed
    assert decide(comparison(effect), [2 * value for value in values]).needed > needed
    assert decide(comparison(effect), values, among=4).needed > needed


def test_that_number_of_seeds_has_that_power():
    generator = torch.Generator().manual_seed(0)
    for n, critical, enough in ((10, 2.2622, True), (9, 2.3060, False)):  # t table
        drawn = torch.randn(200_000, n, generator=generator) + 1
        power = (drawn.mean(1).abs() / drawn.std(1) * n**0.5 > critical).float().mean().item()
        assert (power > 0.8) == enough


def test_the_rest_of_what_is_known_is_said(store, grids):
    grids({"<7,7>": [8.0, 9.0], "<1,1>": [9.0, 9.0]})
    found = judge(ALL["cra-spatial"], store)
    assert found.verdict == OPEN
    assert int(re.search(r"takes n = (\d+)", found.evidence)[1]) == decide(comparison(0.5), [1.0, 0.0]).needed


def curve(errors):
    return [{"epoch": i, "test_top1_error": e, "train_top1_error": e / 2} for i, e in enumerate(errors, 1)]


def run(errors, recipe=RECIPES["cra-cifar"], **metrics):
    spec = Experiment(model="resnet20", dataset="cifar10", recipe=recipe, seed=0).spec()
    return Record("", spec, "done", metrics, curve(errors), {}, 1.0)


def test_roughness_is_of_jumps_before_the_first_drop():
    steady = replace(RECIPES["cra-cifar"], epochs=12, milestones=(9,))
    falling = [90.0 - 5 * i for i in range(12)]
    assert observed.roughness(run(falling, steady)) == 0
    jumping = [e + (-1) ** i for i, e in enumerate(falling)]
    assert observed.roughness(run(jumping, steady)) == pytest.approx(4)
    late = [*falling[:9], 0.0, 80.0, 0.0]
    assert observed.roughness(run(late, steady)) == 0
    assert observed.roughness(run(jumping, replace(steady, milestones=(7,)))) is None  # too few to judge
    assert observed.roughness(run(jumping[:5], SHORT)) is None


def test_what_is_read_off_a_run():
    errors = run([4.0, 2.0])
    assert (observed.mean_error(errors), observed.train_error(errors)) == (3.0, 1.0)
    assert observed.mean_error(run([])) is observed.train_error(run([])) is None
    assert {
        name: observed.observe(name, errors) for name in observed.STATISTICS if "_" in name and name[0] in "ac"
    } == {name: None for name in observed.STATISTICS if name[0] in "ac"}
    assert observed.observe("ap", errors) is None


def test_what_a_network_learned_is_read_where_the_record_has_it(store, save):
    shares = [0.5, 0.1, 0.4, 0.1, 0.5, 0.2, *[0.3] * 7, 0.2, 0.6]
    learned = run([1.0], contribution=shares, attention={"1.2": 0.25, "3.2": 0.5})
    found = {name: observed.observe(name, learned) for name in ("contribution_least", "contribution_most")}
    assert found == {"contribution_least": 10, "contribution_most": 60}
    assert observed.contribution_rise(learned) == pytest.approx(40)
    assert (observed.contribution_14th(learned), observed.attention_rise(learned)) == (20, 25)
    assert observed.contribution_calm(learned) > 0
    swapped = run([1.0], contribution=[0.3] * 6 + shares[:7] + [0.3] * 2)
    assert observed.contribution_calm(swapped) < 0
    assert observed.contribution_calm(run([1.0], contribution=shares[:8])) is None


# What is decided now


@pytest.mark.parametrize("name", DECIDED)
def test_arithmetic_and_laws(name, store):
    found = judge(ALL[name], store)
    assert (found.verdict, found.n) == (DECIDED[name], None), found.evidence


def test_these_are_all():
    assert set(DECIDED) == {name for name, claim in ALL.items() if claim.kind in ("arithmetic", "law")}
    assert set(claims.LAWS) == {claim.law for claim in ALL.values() if claim.law}
    assert all(callable(getattr(laws, law)) for law in claims.LAWS)


def altered(table, label, metric, by):
    rows = [
        row._replace(published=row.published | {metric: f"{float(row.published[metric]) + by:.4f}"})
        if row.label == label
        else row
        for row in table.rows
    ]
    return table._replace(rows=tuple(rows))


@pytest.mark.parametrize("name", [name for name, claim in ALL.items() if claim.test == "printed"])
def test_another_printed_number_would_turn_a_check(name):
    claim = ALL[name]
    table = tables.load(claim.table)
    for check in claim.checks:
        holds, _ = printed.held(table, check, counted=False)
        if "says" not in check or len(check["of"][0]) == 2 or "over" in check:
            continue
        (_, label, metric), *_ = check["of"]
        found = float(printed.total(table, check["of"], counted=False).value)
        moved = altered(table, label, metric, 1.0 if holds else float(check["says"]) - found)
        assert printed.held(moved, check, counted=False)[0] != holds


def test_another_printed_number_would_turn_an_order(store, monkeypatch):
    claim = ALL["cra-beats-both-printed"]
    better = altered(tables.load("cra-2"), "CRA-ResNeXt-50", "top1_error", -0.05)  # 21.94, below the 21.95 of SE
    monkeypatch.setattr(tables, "load", lambda key: better)
    assert judge(claim, store).verdict == YES


def test_a_printed_number_stands_for_all_that_round_to_it():
    table = tables.load("aw-1")
    terms = [[1, "CBAM-MobileNet", "macs"], [-1, "MobileNet Baseline *", "macs"]]  # 0.611 - 0.569
    assert [printed.held(table, {"of": terms, "says": s}, False)[0] for s in ("0.042", "0.041", "0.04", "0.039")] == [
        *[True] * 3,
        False,
    ]
    half = {"of": [[1, "1.00"]], "over": [[1, "3.0"]], "says": "0.33"}
    assert printed.held(table, half, False)[0]
    assert not printed.held(table, half | {"says": "0.36"}, False)[0]


@pytest.mark.parametrize(
    ("bound", "holds"),
    [("at_most", (True, True, False)), ("at_least", (False, True, True)), ("above", (False, False, True))],
)
def test_bounds(bound, holds):
    table = tables.load("aw-1")
    found = [printed.held(table, {"of": [[1, text]], bound: 2}, False)[0] for text in ("1.9", "2.0", "2.1")]
    assert tuple(found) == holds


def test_counts_are_of_the_built_networks(store):
    assert judge(ALL["aw-negligible"], store).verdict == YES
    strict = ALL["aw-negligible"]._replace(checks=(ALL["aw-negligible"].checks[0] | {"at_most": 0.001},))
    assert judge(strict, store).verdict == NO  # witness


def test_a_law_can_fail(monkeypatch):
    assert laws.aw_residual(tables.load("aw-1"))[0]
    monkeypatch.setattr(laws, "EXACT", -1.0)
    assert not laws.aw_residual(tables.load("aw-1"))[0]
    assert not laws.cra_grid_of_one(tables.load("cra-4"))[0]
    flat = tables.load("cra-5")
    assert not laws.cra_flops(flat)[0]
    assert laws.cra_flops(altered_text(flat, "CRA-ResNet-56, CIFAR-10", "macs", "128.24M"))[0]  # were that printed


def altered_text(table, label, metric, text):
    rows = [r._replace(published=r.published | {metric: text}) if r.label == label else r for r in table.rows]
    return table._replace(rows=tuple(rows))


# The file


def test_there_are_claims_of_every_paper_on_every_table():
    assert len(ALL) >= 25
    assert {claim.table for claim in ALL.values()} == set(tables.known())
    assert {claim.paper for claim in ALL.values()} == {"CRA", "DCA", "AW", "Bridge"}
    assert set(claims.TESTS) == {claim.test for claim in ALL.values()}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('id = "cra-light"', 'id = "cra-flops"', "claim 'cra-flops': 2 claims"),
        ('table = "cra-1"', 'table = "cra-9"', "Unknown table"),
        ('test = "counts"', 'test = "count"', "Unknown test"),
        ('kind = "network"', 'kind = "training"', "kind"),
        ('where = "II-C, Table I"\n', "", "where"),
        ('where = "II-C, Table I"', 'where = ""', "texts"),
        ('paper = "CRA"', 'paper = "DCA"', "is of 'CRA'"),
        ('law = "cra_flops"', 'law = "cra_flop"', "Unknown law"),
        ('"CRA-ResNet-50", "params"', '"CRA-ResNet-51", "params"', "Unknown row"),
        ('"ResNet-50", "macs"', '"ResNet-50", "flops"', "Unknown metric"),
        ('metrics = ["top1_error"]', 'metrics = ["top2_error"]', "Unknown metric"),
        ('metrics = ["top1_error"]', 'metrics = ["ap"]', "Unknown metric"),
        ("effect = 0.5", "effect = -0.5", "above 0"),
        ("effect = 0.5", "effect = 0.0", "empty or 0"),
        ("effect = 0.5", 'effect = "0.5"', "claim"),
        ("effect = 0.5", "effect = 0.5\nmargin = 0.5", "margin"),
        ("at_most = 0.05", "most = 0.05", "a check has"),
        ("at_most = 0.05", "at_most = 0.05, above = 0", "a check has"),
        ("[[claims]]", "[[claims]", "Correct the file"),
    ],
)
def test_a_broken_file_says_where(tmp_path, old, new, complaint):
    text = SOURCE.read_text()
    assert old in text
    path = tmp_path / "claims.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Corrupt, match=re.escape(complaint)) as caught:
        claims.read(path)
    assert str(path) in str(caught.value)
    assert old == "[[claims]]" or "claim '" in str(caught.value)


def test_the_report(store):
    lines = report(store, "Bridge")
    assert [line["id"] for line in lines] == [name for name in ALL if name.startswith("bridge")]
    for line in lines:
        assert list(line) == ["id", "paper", "statement", "where", "verdict", "evidence", "n"]
    assert json.loads(json.dumps(lines, allow_nan=False)) == lines
    assert {line["n"] for line in lines} == {None, 0}
    assert summary(lines) == "Of 4 claims 0 supported, 1 contradicted, 0 inconclusive and 3 not measured."
    with pytest.raises(UnknownName):
        report(store, "Bridgy")
