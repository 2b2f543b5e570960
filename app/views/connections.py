"""How much each attention block hears of the ones before it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import streamlit as st
from state import choose, choose_networks, choose_pictures, choose_several, downloads, network, said, store

from workbench.experiments import compare, zoo
from workbench.experiments.experiment import Record
from workbench.explain import samples
from workbench.names import parse

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.explain.chain import Chain

MOST = 4
MODELS = ("dca-se-resnet20", "dca-cbam-resnet20", "dca-sk-resnet20")  # shown first, on DATA before others
DATA = "cifar10"
MOVED = "mean |T - T_0|"
EXACT: Any = st.column_config.NumberColumn(format="%.4f")
Shares = Sequence[tuple[str, str, float]]  # (site, dim, ratio) of every connection


class Source(NamedTuple):
    """Networks alike but for the seed: their records, or one without a record, whose weights are read.

    details: what tells it from others, first what is read first.
    """

    key: str
    model: str
    details: tuple[str, ...]
    records: tuple[Record, ...]


def page() -> None:
    """Choices, ratios, chain."""
    known = {key: one for key, one in zoo.known(store()).items() if connected(one.model)}
    found = sources(known)
    if not found:
        st.info(
            "No connected network is here yet. Run `workbench train dca-se-resnet20 --data layouts --recipe smoke`."
        )
        return
    left, right = st.columns([1, 3])
    with left:
        counts = Counter(backbone(one.model) for one in found)
        options = {name: f"{name}, {count} network{'s' * (count > 1)}" for name, count in counts.most_common()}
        chosen = choose("Backbone", "backbone", options, backbone(found[0].model))
    found = [one for one in found if backbone(one.model) == chosen]
    names = labels(found)
    with right:
        first = {one.model: one.key for one in reversed(found) if one.details[1] == found[0].details[1]}
        default = [first[model] for model in MODELS if model in first] or [found[0].key]
        keys = choose_several("Networks", "network", names, default, MOST)
    ratios([one for one in found if one.key in keys], names)
    st.subheader("The chain")
    own = {key: one for key, one in known.items() if backbone(one.model) == chosen}
    if own:
        chain_of(own, keys)
    else:
        example = next(one.model for one in found if one.key in keys)
        st.info(
            f"The chain is drawn from weights, and none of a connected {chosen} are here. "
            f"Run `workbench train '{example}' --data layouts --recipe smoke`."
        )


def connected(model: str) -> bool:
    return parse(model).connection is not None


def backbone(model: str) -> str:
    return str(parse(model).backbone)


def sources(known: Mapping[str, zoo.Trained]) -> list[Source]:
    """All that can be shown, the first choice first: runs by groups of seeds, then weights that came without a run."""
    done = [one for one in store().records() if one.status == "done" and one.metrics.get("contribution")]
    done = [
        one for one in done if ":" not in one.spec["model"]["name"]
    ]  # a class of one's own is not imported for this
    found: list[Source] = []
    seen: set[str] = set()
    for group in sorted(compare.groups(done), key=len, reverse=True):  # a run may be here and with the project
        records = tuple(one for one in group if one.key not in seen)
        seen |= {one.key for one in records}
        if records:
            first = records[0]
            data, _, recipe = compare.protocol(first).partition(", ")
            model, epochs = first.spec["model"]["name"], recipe.partition(",")[0]
            found.append(Source(first.key, model, (model, data, epochs, first.origin, first.key), records))
    for key, one in known.items():
        if key not in seen:
            found.append(Source(key, one.model, (one.model, one.dataset, one.origin, key), ()))
    place = {model: number for number, model in enumerate(MODELS)}

    def rank(one: Source) -> tuple[int, bool, bool, int]:
        return place.get(one.model, 99), zoo.detects(one.model), one.details[1] != DATA, -len(one.records)

    return sorted(found, key=rank)


def labels(found: Sequence[Source]) -> dict[str, str]:
    """Key -> model and data set, and as many more details as tell it from the others."""
    named = {}
    for one in found:
        levels = range(2, len(one.details) + 1)
        alike = {level: sum(other.details[:level] == one.details[:level] for other in found) for level in levels}
        named[one.key] = ", ".join(one.details[: next(level for level in levels if alike[level] == 1)])
    return named


def ratios(found: Sequence[Source], names: Mapping[str, str]) -> None:
    """DCA Fig. 5 and its numbers."""
    from workbench.explain.pictures import contributions

    values: dict[str, Sequence[Shares]] = {}
    seeds: dict[str, list[str]] = {}
    for one in found:
        with said():
            values[names[one.key]] = [shares(one.model, record) for record in one.records] or [weighed(one.key)]
            seeds[names[one.key]] = [f"seed {record.spec['seed']}" for record in one.records] or ["one network"]
    with said():
        figure = with_legend_below(contributions(values))
        st.plotly_chart(figure, alt=figure.layout.meta)
        st.markdown(
            "**Share of the earlier attention**, DCA's contribution ratio: |w_earlier| / (|w_earlier| + |w_current|). "
            "A connected block merges its own descriptor, times w_current, with what the block before attended, times "
            "w_earlier, and learns these weights. 0: it hears nothing; 0.5: both weigh the same; 1: it hears the "
            "earlier block alone. The first block has none before it, so it has no share. A line is the mean of its "
            "seeds, each of which is a dot. Where a block hears several, w_earlier is the sum over them."
        )
        frame = table(values, seeds)
        st.dataframe(frame, column_config={name: EXACT for name in frame})
        downloads("connections", figure, frame)


def shares(model: str, record: Record) -> Shares:
    """Those that the run wrote into its record."""
    from workbench.explain import chain

    return chain.shares(places(model), record.metrics)


@st.cache_data(max_entries=32, show_spinner=False)
def places(model: str) -> list[tuple[str, str]]:
    """(site, dim) of every connection of a network of this name; needs no weights."""
    import torch

    from workbench.build import build
    from workbench.explain import chain

    with torch.device("meta"):
        return chain.places(build(model, checked=False))


@st.cache_data(max_entries=32, show_spinner=False)
def weighed(key: str) -> Shares:
    """Those of a network whose weights are here."""
    from workbench.explain import maps

    return [(one.site, one.dim, one.ratio) for one in maps.contribution(network(key)[0])]


def table(values: Mapping[str, Sequence[Shares]], seeds: Mapping[str, Sequence[str]]) -> "pd.DataFrame":
    """A row a connection, by the block that hears; a column a network, dimension and seed."""
    import pandas as pd

    columns: dict[str, dict[str, float]] = {}
    for label, runs in values.items():
        dims = list(dict.fromkeys(dim for _, dim, _ in runs[0]))
        for dim in dims:
            for seed, run in zip(seeds[label], runs, strict=True):
                name = ", ".join([label, *([dim] if len(dims) > 1 else []), seed])
                columns[name] = {site: ratio for site, mine, ratio in run if mine == dim}
    return pd.DataFrame(columns).rename_axis("block that hears")


def chain_of(known: Mapping[str, zoo.Trained], preferred: Sequence[str]) -> None:
    """The blocks of one network and the arrows between them."""
    left, right = st.columns(2)
    with left:
        first = [key for key in preferred if key in known]
        ordered = {key: known[key] for key in [*first, *(key for key in known if key not in first)]}
        (key,) = choose_networks("chain", ordered, (), 1)
    with right:
        (picture,) = choose_pictures("picture", samples.telling(known[key].dataset, store().data), 1)
    st.markdown(
        "A disc is an attention block, named stage.block, with its number of channels beside it; its colour is its "
        "stage. An arrow leads from a block to one that hears it, as thick as its share. Point at it for its weights "
        "and for what brings the earlier memory to the size of the later descriptor."
    )
    with said():
        from workbench.explain import chain

        chains, moved = linked(key, picture.pixels)
        for one in chains:
            figure = chain.figure(one, known[key].model)
            frame = link_table(one, moved)
            st.markdown(f"**{one.dim.capitalize()} attention of {known[key]}**")
            left, right = st.columns([1, 2])
            left.plotly_chart(figure, width="content", alt=figure.layout.meta, key=f"chain-{one.dim}")
            right.dataframe(frame, column_config={name: EXACT for name in frame.select_dtypes("float")})
            downloads(f"chain-{one.dim}", figure, frame)
    st.caption(
        "The share compares the weights of the merge, not the size of what flows: behind a large weight there may be "
        "a small memory. What a connection does in one picture is in the column |T - T_0|: how far it moves the "
        f"attention T of the block that hears, as a mean over its values for {picture.name}. T_0 is T when all that "
        "the block hears is 0 and the map that it sees stays the same. It is 0 where the connection changes nothing, "
        "whatever its share."
    )


@st.cache_data(max_entries=32, show_spinner="Reading connections")
def linked(key: str, pixels: np.ndarray) -> "tuple[list[Chain], dict[tuple[str, str], float]]":
    """The chain of each connected dimension, and how far each attention is moved for this picture."""
    from workbench.explain import chain

    shared, reads = network(key)
    x = reads.normalised(pixels)
    return chain.read(shared, x), chain.moved(shared, x)


def link_table(one: "Chain", moved: Mapping[tuple[str, str], float]) -> "pd.DataFrame":
    """A row a connection; the last column is of all that the block hears together."""
    import pandas as pd

    from workbench.explain import chain

    frame = pd.DataFrame(chain.rows(one)).set_index("to block")
    frame.insert(2, MOVED, [moved[site, one.dim] for site in frame.index])
    return frame


def with_legend_below(figure: "go.Figure") -> "go.Figure":
    """A line an entry, below the axis however narrow the page is."""
    entries = sum(trace.showlegend is not False for trace in figure.data)
    legend = {"orientation": "v", "x": 0, "xanchor": "left", "yref": "container", "y": 0, "yanchor": "bottom"}
    return figure.update_layout(legend=legend, margin_b=60 + 22 * entries, height=370 + 22 * entries)


st.title("Connections")
st.write(
    "In a deep connected attention network (DCA) each attention block also hears what the block before it attended. "
    "DCA Fig. 5 asks how much: the share of the earlier attention in each connection, from the first to the last."
)
page()
