"""A table as a sheet to sort and to filter: numbers below, as they are printed above, what does not add up marked."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.experiments.compare import cells, show
from workbench.experiments.metrics import SCALE, Metric, as_float
from workbench.experiments.table import Table

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

AS_PRINTED, DIFFERS = "as printed", "differs from the print"


class Sheet(NamedTuple):
    """values: numbers, to sort by; shown: the text of each of their cells; protocols: by the numbers in the sheet."""

    values: "pd.DataFrame"
    shown: "pd.DataFrame"
    protocols: list[str]

    def of(self, text: str = "", status: str = "", protocol: int = 0) -> "Sheet":
        """The lines whose row contains this text, in any case, with this status and protocol; "" and 0 ask for all."""
        values = self.values
        kept = [text.casefold() in str(row).casefold() for row in values.index]
        if status:
            kept = [one and found == status for one, found in zip(kept, values["status"], strict=True)]
        if protocol:
            numbers = values["protocol"].fillna(0)
            kept = [one and found == protocol for one, found in zip(kept, numbers, strict=True)]
        return Sheet(values[kept], self.shown[kept], self.protocols)

    def styled(self) -> "Styler":
        """The numbers, each cell with its text; a row may stand in several lines, which get numbers of their own."""
        import pandas as pd

        values, shown = (frame.rename_axis("row").reset_index() for frame in (self.values, self.shown))
        styler = values.style
        for column in values.columns:
            texts: dict[Any, str] = {}
            others: list[tuple[int, str]] = []  # a number that an earlier line shows as another text
            for line, (value, text) in enumerate(zip(values[column], shown[column], strict=True)):
                if not pd.isna(value) and texts.setdefault(value, text) != text:
                    others.append((line, text))
            styler = styler.format(texts.get, subset=[column], na_rep="-")
            for line, text in others:
                styler = styler.format(_always(text), subset=([line], [column]))
        return styler

    def exact(self) -> "pd.DataFrame":
        """For a file: the print as text, since its digits count, and everything measured to the last digit."""
        printed = [column for column in self.values if str(column).endswith("published")]
        return self.values.assign(**{column: self.shown[column] for column in printed})


def _always(text: str) -> Callable[[Any], str]:
    return lambda value: text


def marks(table: Table) -> dict[tuple[str, str], str]:
    """(row, metric) -> the mark of the erratum on this cell; errata are numbered as they stand in the table."""
    found: dict[tuple[str, str], str] = {}
    for number, erratum in enumerate(table.errata, 1):
        for row in erratum.row:
            for metric in erratum.metric:
                found.setdefault((row, metric), f"†{number}")
    return found


def leading(table: Table) -> Metric:
    """The column that a table is about: the first that is trained, or the first."""
    return next((metric for metric in table.metrics if metric.trained), table.metrics[0])


def compact(table: Table, entries: list[dict[str, Any]], metric: Metric) -> Sheet:
    """One column of the table: a line for each row and protocol, published | measured | spread | n | protocol | status.

    spread: standard deviation over seeds, none of one seed.  protocol: a number into `protocols`.
    """
    import pandas as pd

    numbers: dict[str, int] = {}
    marked, digits = marks(table), 4 if metric.unit == "fraction" else 2
    rows, values, shown = [], [], []
    for entry in entries:
        found = [measured for measured in entry["measured"] if measured["metric"] == metric.key]
        text = f"{entry['printed'].get(metric.key, '-')} {marked.get((entry['row'], metric.key), '')}".strip()
        for measured in found or [None]:
            number = numbers.setdefault(_protocol(measured), len(numbers) + 1) if measured else None
            mean, spread, n = (measured[key] if measured else None for key in ("mean", "std", "n"))
            status = _status(entry, measured)
            rows.append(entry["row"])
            values.append((entry["published"].get(metric.key), mean, spread, n, number, status))
            said = ("-", "-", "-") if measured is None else _said(metric, measured, digits)
            shown.append((text, *said, "-" if number is None else str(number), status))
    columns = ["published", "measured", "spread", "n", "protocol", "status"]
    frame = pd.DataFrame(values, rows, columns)
    kinds = {"published": float, "measured": float, "spread": float, "n": "Int64", "protocol": "Int64"}
    return Sheet(frame.astype(kinds), pd.DataFrame(shown, rows, columns), list(numbers))


def everything(table: Table, entries: list[dict[str, Any]]) -> Sheet:
    """Every column of the table and every protocol side by side, as `report.frame` has them."""
    import pandas as pd

    (_, *heads), lines = cells(table, entries)
    marked = marks(table)
    units = {f"{metric.title} ({metric.unit})": metric for metric in table.metrics}
    columns: list[str] = []
    values: dict[str, list[Any]] = {}
    shown: dict[str, list[str]] = {}
    for place, (title, source) in enumerate(heads, 1):
        name, texts = ": ".join(filter(None, (title, source))), [line[place] for line in lines]
        columns.append(name)
        if title:
            values[name] = [_number(text, units[title].unit) for text in texts]
            if source == "published":
                key = units[title].key
                texts = [f"{line[place]} {marked.get((line[0], key), '')}".strip() for line in lines]
        else:
            values[name] = texts
        shown[name] = texts
    rows = [line[0] for line in lines]
    return Sheet(pd.DataFrame(values, rows, columns), pd.DataFrame(shown, rows, columns), [])


def _said(metric: Metric, measured: dict[str, Any], digits: int) -> tuple[str, str, str]:
    """Mean, spread and n as text; a count with its verdict."""
    if "agrees" in measured:
        return show(metric, measured), "-", "-"
    spread = "-" if measured["std"] is None else f"{measured['std']:.{digits}f}"
    return f"{measured['mean']:.{digits}f}", spread, str(measured["n"])


def _status(entry: dict[str, Any], measured: dict[str, Any] | None) -> str:
    if measured and "agrees" in measured:
        return AS_PRINTED if measured["agrees"] else DIFFERS
    return entry["status"]


def _protocol(measured: dict[str, Any]) -> str:
    """What a number was measured or counted with."""
    where = f", {measured['hardware']}" if measured["dataset"] else ""
    return f"{measured['column']}: {measured['protocol']}{where}"


def _number(text: str, unit: str) -> float | None:
    """The first number of a cell, in the unit of its column; None where there is none."""
    first = text.split(" ")[0]
    return as_float(first, unit) if first.rstrip("".join(SCALE)).replace(".", "", 1).isdigit() else None
