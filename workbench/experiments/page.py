"""What the notebook of a table shows, one call a cell, at one budget and in one store."""

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from workbench.experiments import report, tables
from workbench.experiments.store import Store

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from IPython.display import Markdown

UNTRAINED = "Nothing is trained at this budget."


class Page:
    """A table for a reader: its claims, models, runs, numbers, figures, and what follows from them.

    The arguments are the parameters of the notebook; raises UnknownName or OutOfRange at once.
    """

    def __init__(
        self,
        table: str,
        budget: str,
        data: str = "",
        seeds: int = 0,
        epochs: int = 0,
        engine: str = "local",
        device: str = "auto",
        runs_dir: str = "",
        data_dir: str = "",
    ):
        self.table = tables.load(table).on(data, epochs=epochs)
        self.budget, self.seeds = budget, seeds
        self.store = Store(runs_dir, data_dir)
        self.resources = report.Resources(engine=engine, device=device)
        self.trains = budget != "count" and bool(self.table.budget(budget))

    def claims(self) -> "Markdown":
        """The sentences of the paper that the table stands for, and how its numbers were made."""
        from IPython.display import Markdown

        said = [f'> "{claim["text"]}" ({claim["where"]})' for claim in self.table.claims]
        return Markdown("\n>\n".join(said) + f"\n\n*Published with*: {self.table.protocol}")

    def models(self) -> "pd.DataFrame":
        """The paper's model of each row, and the one that stands for it here."""
        return report.models(self.table, self.budget)

    def run(self) -> "Markdown":
        """Train what this budget still lacks; what is done is not trained again."""
        from IPython.display import Markdown

        report.run(self.table, self.budget, self.store, self.seeds, self.resources)
        return Markdown(report.heading(self.table, self.budget))

    def numbers(self) -> "pd.DataFrame":
        """Published beside measured; each measured column names its data set and recipe."""
        return report.frame(self.table, self._entries())

    def protocols(self) -> None:
        """How the measured numbers were made, and what does not add up in the published ones."""
        print("\n".join(report.protocols(self._entries())))
        for erratum in self.table.errata:
            print(f"In print, {erratum.where}: {erratum.text}")

    def figure(self) -> "go.Figure | str":
        """The printed single runs, and every seed measured here, on an axis of its own."""
        return report.figure(self.table, self.store, self.budget) if self.trains else UNTRAINED

    def curves(self, metric: str = "") -> "go.Figure | str":
        """A measure over the epochs: the mean of the seeds in the band from the lowest to the highest.

        By default it is the test error, or a detector's AP.
        """
        return report.training_curves(self.table, self.store, self.budget, metric) if self.trains else UNTRAINED

    def both_curves(self, *rows: str) -> "go.Figure | str":
        """Training and test error of some rows over the epochs, as CRA Fig. 3 and 6."""
        return report.both_curves(self.table, self.store, self.budget, rows) if self.trains else UNTRAINED

    def logs(self) -> "go.Figure | str":
        """The logs that the paper shows, beside measured curves with their last, best and mean values."""
        return report.logs(self.table, self.store, self.budget) if self.trains else UNTRAINED

    def parameters(self) -> "go.Figure | str":
        """Accuracy or error over parameters, a module joined with its connected form, as DCA Fig. 1."""
        return report.over_parameters(self.table, self.store, self.budget) if self.trains else UNTRAINED

    def contributions(self, *rows: str) -> "go.Figure | str":
        """How much each block hears of the one before, in the trained networks of these rows, as DCA Fig. 5."""
        return self._looked("contributions", rows)

    def attention(self, row: str, pictures: int = 4) -> "go.Figure | str":
        """Attention of every channel for a few test pictures, in the trained network of a row, as CRA Fig. 8."""
        return self._looked("attention", row, pictures)

    def cams(self, *rows: str, pictures: int = 2) -> "go.Figure | str":
        """Grad-CAM of the true class in every stage, in the trained networks of these rows, as CRA and DCA Fig. 4."""
        return self._looked("cams", rows, pictures)

    def detections(self, *rows: str, pictures: int = 3, least: float = 0.3) -> "go.Figure | str":
        """What the trained detectors of these rows find in the same test pictures, side by side, as CRA Fig. 7.

        least: the score, in [0, 1], from which on a box is shown.
        """
        return self._looked("detections", rows, pictures, least)

    def layers(self, row: str) -> "pd.DataFrame":
        """The layer list that the paper prints for a row, beside the one read off the built network."""
        import pandas as pd

        from workbench.experiments.architecture import layers

        (found,) = [one for one in self.table.rows if one.label == row]
        printed, built = found.layers, layers(found.model, found.classes)
        both = [(*a, *b) for a, b in zip_longest(printed, built, fillvalue=("-", "-"))]
        heads = pd.MultiIndex.from_product([("published", "built"), ("output", "layers")])
        return pd.DataFrame(both, columns=heads)

    def reading(self) -> None:
        """What the numbers here say, in sentences made from them."""
        print("\n".join(report.reading(self.table, self._entries())))

    def _entries(self) -> list[dict[str, Any]]:
        return report.compare(self.table, self.store, self.budget)

    def _looked(self, what: str, *chosen: Any) -> "go.Figure | str":
        from workbench.experiments import looks

        return getattr(looks, what)(self.table, self.store, self.budget, *chosen) if self.trains else UNTRAINED
