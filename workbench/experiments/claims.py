"""What the papers claim, each put to its test: data/claims.toml, whose head says how; thresholds are older than runs.

The papers' printed numbers never decide a claim about training; they are what the claim says, and only runs here are
held against it.  Arithmetic, counts and laws are decided at once.
"""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench import files
from workbench.errors import Corrupt, OutOfRange, UnknownName
from workbench.experiments import evidence, observed, printed, tables
from workbench.experiments.evidence import CONTRADICTED, INCONCLUSIVE, NOT_MEASURED, SUPPORTED, Verdict
from workbench.experiments.experiment import Record
from workbench.experiments.metrics import METRICS
from workbench.experiments.store import Store
from workbench.experiments.table import Table

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


class Claim(NamedTuple):
    """A statement and its test.  table: the one it reads; the fields after `test` are those that the test takes."""

    id: str
    paper: str
    where: str
    statement: str
    kind: str
    table: str
    test: str
    law: str = ""
    metrics: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    rows: tuple[str, ...] = ()
    terms: tuple[tuple[float, str], ...] = ()
    checks: tuple[dict[str, Any], ...] = ()
    value: float = 0.0
    effect: float = 0.0
    margin: float = 0.0
    note: str = ""


ALWAYS = ("id", "paper", "where", "statement", "kind", "table", "test")
TESTS = {  # test: its kind, and the fields that it takes
    "better": ("training", ("pairs", "metrics", "effect")),
    "order": ("training", ("rows", "metrics", "effect")),
    "shrinks": ("training", ("pairs", "metrics", "effect")),
    "sum": ("training", ("terms", "metrics", "effect")),
    "no_worse": ("training", ("pairs", "metrics", "margin")),
    "alike": ("training", ("pairs", "metrics", "margin")),
    "above": ("training", ("rows", "metrics", "value", "effect")),
    "below": ("training", ("rows", "metrics", "value", "effect")),
    "near": ("training", ("rows", "metrics", "value", "margin")),
    "printed_better": ("arithmetic", ("pairs", "metrics")),
    "printed": ("arithmetic", ("checks",)),
    "counts": ("network", ("checks",)),
    "law": ("law", ("law",)),
}
LAWS = (
    *("cra_parameters", "cra_flops", "cra_independent", "cra_fits", "cra_grid_of_one"),
    *("dca_zero_is_vanilla", "dca_match_parameters", "dca_stage_3", "aw_residual"),
)


@cache
def known() -> list[Claim]:
    """Every claim, in the order of the file; raises Corrupt."""
    return read(files.share("data") / "claims.toml")


def read(path: Path) -> list[Claim]:
    """The claims of one TOML file, checked; raises Corrupt naming the file and the claim."""
    try:
        claims = [_claim(raw) for raw in tomllib.loads(path.read_text())["claims"]]
        for name, times in Counter(claim.id for claim in claims).items():
            if times > 1:
                raise OutOfRange(f"claim {name!r}: {times} claims have this id")
        return claims
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, Corrupt) as error:
        raise Corrupt(f"{path}: {error}. Correct the file.") from error


def _claim(raw: dict[str, Any]) -> Claim:
    try:
        if unknown := [test for test in [raw["test"]] if test not in TESTS]:
            raise UnknownName("test", unknown[0], TESTS)
        kind, fields = TESTS[raw["test"]]
        wanted = {*ALWAYS, *fields}
        if wrong := wanted ^ (set(raw) - {"note"}):
            raise OutOfRange(f"field {sorted(wrong)[0]!r} is missing or not of test {raw['test']!r}: {sorted(wanted)}")
        if raw["kind"] != kind:
            raise OutOfRange(f"kind = {raw['kind']!r}; test {raw['test']!r} is of kind {kind!r}")
        for key in ("metrics", "rows", "checks"):
            raw[key] = tuple(raw.get(key, ()))
        for key in ("pairs", "terms"):
            raw[key] = tuple((a, b) for a, b in raw.get(key, ()))
        claim = Claim(**raw)
        _check(claim, tables.load(claim.table))
        return claim
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if type(error) is KeyError else error
        raise OutOfRange(f"claim {raw.get('id', '?')!r}: {what}") from error


def _check(claim: Claim, table: Table) -> None:
    """Every name leads somewhere and every number means something; raises UnknownName or OutOfRange."""
    if claim.paper != table.paper:
        raise OutOfRange(f"paper = {claim.paper!r}; table {claim.table} is of {table.paper!r}")
    if not all(isinstance(text, str) and text.strip() for text in claim[:7]):
        raise OutOfRange(f"{', '.join(ALWAYS)} must be texts")
    fields = TESTS[claim.test][1]
    for key in fields:
        if key != "value" and not getattr(claim, key):
            raise OutOfRange(f"{key} = {getattr(claim, key)!r} must not be empty or 0")
    if min(claim.effect, claim.margin) < 0:
        raise OutOfRange("effect and margin must be above 0")
    if claim.law and claim.law not in LAWS:
        raise UnknownName("law", claim.law, LAWS)
    terms = [term for check in claim.checks for term in (*check["of"], *check.get("over", ()))]
    cells = [tuple(term[1:]) for term in terms if len(term) == 3]
    labels = {*claim.rows, *(label for pair in claim.pairs for label in pair), *(label for _, label in claim.terms)}
    for label in sorted(labels | {label for label, _ in cells}):
        if label not in [row.label for row in (*table.rows, *table.controls)]:
            raise UnknownName(f"row of {table.key}", label, [row.label for row in table.rows])
    columns = {metric.key for metric in table.metrics}
    for metric in (*claim.metrics, *(metric for _, metric in cells)):
        if metric not in columns and (
            metric in METRICS or metric not in observed.STATISTICS or claim.kind != "training"
        ):
            raise UnknownName(f"metric of {table.key}", metric, [*columns, *observed.STATISTICS])
    for check in claim.checks:
        if sum(bound in check for bound in printed.BOUNDS) != 1 or not set(check) <= {"of", "over", *printed.BOUNDS}:
            raise OutOfRange(f"a check has `of`, perhaps `over`, and one of {', '.join(printed.BOUNDS)}, not {check}")


def judge(claim: Claim, store: Store) -> Verdict:
    """What is known about the claim: its verdict, the evidence in words, and the number of seeds."""
    return _judge(claim, _by_model(store) if claim.kind == "training" else {})


def check_paper(paper: str) -> None:
    """Raise UnknownName unless this paper, or "" for all, has claims here."""
    papers = {claim.paper for claim in known()}
    if paper and paper not in papers:
        raise UnknownName("paper", paper, papers)


def report(store: Store, paper: str = "") -> list[dict[str, Any]]:
    """One entry a claim, of one paper or of all; raises UnknownName.

    {"id", "paper", "statement", "where", "verdict", "evidence", "n"}
    """
    check_paper(paper)
    by_model, lines = _by_model(store), []
    for claim in known():
        if paper in ("", claim.paper):
            said = {key: getattr(claim, key) for key in ("id", "paper", "statement", "where")}
            lines.append(said | _judge(claim, by_model)._asdict())
    return lines


def frame(lines: Iterable[dict[str, Any]], verdict: str) -> "Styler":
    """The claims of one verdict, for a notebook."""
    import pandas as pd

    columns = ["paper", "id", "statement", "where", "evidence", "n"]
    chosen = [{key: line[key] for key in columns} for line in lines if line["verdict"] == verdict]
    shown = pd.DataFrame(chosen, columns=columns).astype({"n": "Int64"})
    left = {"text-align": "left", "vertical-align": "top"}
    return shown.style.hide().format(na_rep="-", escape="html").set_properties(**left)


def summary(lines: Iterable[dict[str, Any]]) -> str:
    """How many claims came out how, in one sentence."""
    found = Counter(line["verdict"] for line in lines)
    counts = [f"{found[verdict]} {verdict}" for verdict in (SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_MEASURED)]
    return f"Of {sum(found.values())} claims {', '.join(counts[:-1])} and {counts[-1]}."


def _judge(claim: Claim, by_model: dict[str, list[Record]]) -> Verdict:
    table = tables.load(claim.table)
    if claim.kind == "training":
        found = evidence.of_runs(claim, table, by_model)
    elif claim.kind == "law":
        from workbench.experiments import laws

        holds, sentence = getattr(laws, claim.law)(table)
        found = Verdict(SUPPORTED if holds else CONTRADICTED, sentence)
    else:
        found = _arithmetic(claim, table)
    return found._replace(evidence=f"{found.evidence} {claim.note}".strip())


def _arithmetic(claim: Claim, table: Table) -> Verdict:
    """All checks must hold; the evidence is those that do not, or all."""
    checks = claim.checks or tuple(_printed_better(claim))
    done = [printed.held(table, check, counted=claim.kind == "network") for check in checks]
    wrong = [sentence for holds, sentence in done if not holds]
    shown = "; ".join(wrong[:3] if wrong else [sentence for _, sentence in done][:3])
    which = "; what does not" if wrong else ", the first of them" if len(done) > 3 else ""
    text = f"{len(done) - len(wrong)} of {len(done)} checks hold{which}: {shown}."
    return Verdict(CONTRADICTED if wrong else SUPPORTED, text)


def _printed_better(claim: Claim) -> Iterable[dict[str, Any]]:
    """Checks that the first row of each pair is printed with the better number."""
    for metric in claim.metrics:
        for pair in claim.pairs:
            more, less = pair if METRICS[metric].better == "higher" else pair[::-1]
            yield {"of": [[1, more, metric], [-1, less, metric]], "above": 0}


def _by_model(store: Store) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for record in store.records():
        found[record.spec["model"]["name"]].append(record)
    return found
