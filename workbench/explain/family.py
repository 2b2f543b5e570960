"""The family of modules: which is a special case of which, as the laws of tests/laws prove it.

An edge is a law about two modules, with the test that proves it; laws about one module alone, or about a property that
many share, are in APART with the reason.  tests/explain/test_family.py holds both against the tests that there are.
"""

from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

import plotly.graph_objects as go

from workbench.explain.figures import BLUE, GREY, TEXT, plain

RADIUS_PX = 29


class Node(NamedTuple):
    """A module or one of its special cases; column and row from the upper left, what stands in the circle, words."""

    column: int
    row: int
    label: str
    words: str


NODES = {
    "cra": Node(0, 0, "CRA", "CRA, a gate from a grid of means"),
    "ge": Node(1, 0, "GE", "Gather-Excite"),
    "cbam": Node(2, 0, "CBAM", "CBAM"),
    "cra1": Node(0, 1, "CRA<br>1 x 1", "CRA with the grid <1,1>"),
    "se": Node(1, 1, "SE", "SE, a gate from the means of all channels"),
    "gc": Node(2, 1, "GC", "Global Context"),
    "conv": Node(0, 2, "plain<br>conv", "a plain convolution"),
    "aw": Node(1, 2, "AW", "AW-convolution"),
    "sk": Node(2, 2, "SK", "Selective Kernel"),
    "direct": Node(0, 3, "bridge<br>direct", "Bridge, direct"),
    "gate": Node(1, 3, "bridge<br>gate", "Bridge as a gate, without its bottleneck"),
    "mean": Node(2, 3, "mean<br>of two", "the mean of two convolutions"),
    "dca": Node(0, 4, "DCA", "any module, connected by DCA"),
    "alone": Node(1, 4, "alone", "the same module, unconnected"),
}


class Law(NamedTuple):
    """In the case that the text names, source is target; not `equal`: it never is.  test: file::function there."""

    source: str
    target: str
    text: str
    equation: str
    test: str
    equal: bool = True


LAWS = (
    Law("cra", "cra1", "On maps that are constant over their positions, a grid is one cell, with the sum of the "
        "weights.", r"X_c(p) = x_c:\quad l_c = \sum_{i,j} L_c(i,j)",
        "test_family.py::test_on_constant_maps_a_grid_is_one_cell"),
    Law("cra", "ge", "CRA whose grid is the map is Gather-Excite at global extent: GE's BN folds into CRA's kernel "
        "and bias.", r"L = w\, s, \quad b = \beta - \mu s, \quad s = \gamma / \sqrt{v + \epsilon}",
        "test_family.py::test_cra_whose_grid_is_the_map_is_ge_at_global_extent"),
    Law("ge", "se", "Gather-Excite without theta on the whole map is SE without its two layers.",
        r"T_c = \sigma(\mathrm{mean}\, X_c)",
        "test_family.py::test_ge_without_theta_at_the_whole_map_is_se_without_its_layers"),
    Law("ge", "cra1", "The same gate is CRA <1,1> with weight 1 and bias 0.", r"T_c = \sigma(1 \cdot \mathrm{mean}\, "
        r"X_c + 0)", "test_family.py::test_ge_without_theta_at_the_whole_map_is_se_without_its_layers"),
    Law("cra1", "se", "CRA <1,1> is a gate of each channel on its own mean; it is not SE, whose gates see each "
        "other's means.", r"T_c = \sigma(l_c\, \mathrm{mean}\, X_c + b_c)",
        "test_family.py::test_cra_1_is_a_gate_of_each_channel_on_its_own_mean", False),
    Law("cbam", "se", "CBAM's channel gate without the maximum is SE.",
        r"\sigma(\mathrm{MLP}(\mathrm{mean}\, X)) = T^{\mathrm{SE}}",
        "test_family.py::test_cbam_of_one_dimension_and_one_mean_is_se"),
    Law("gc", "se", "Global Context adds the same term at every position; a gate such as SE's does not.",
        r"X'_c(p) - X_c(p) = T_c", "test_family.py::test_gc_adds_the_same_everywhere", False),
    Law("aw", "se", "An AW-convolution whose attention varies over its inputs alone is a gate before the convolution, "
        "where SE would stand.", r"K * (A \odot X) = (A \odot K) * X",
        "test_aw.py::test_an_attention_over_inputs_alone_is_a_gate_before_the_convolution"),
    Law("aw", "se", "A 1x1 AW-convolution is a gate after the convolution.", r"Y_c = (1 + A_c)\, (K * X)_c",
        "test_aw.py::test_a_pointwise_aw_convolution_is_a_gate_after_it"),
    Law("aw", "conv", "With an attention of 0 an AW-convolution is the plain one (AW Eq. 1 and 6).",
        r"A = 0 \;\Rightarrow\; Y = K * X",
        "test_aw.py::test_eq_1_is_the_plain_convolution_and_residual_attention_of_zero_too"),
    Law("aw", "conv", "A constant attention scales the plain convolution.", 
        r"A = a \;\Rightarrow\; Y = (1 + a)\, (K * X)",
        "test_aw.py::test_a_constant_attention_scales_a_plain_convolution"),
    Law("aw", "conv", "One attention for the whole batch is one plain convolution.",
        r"Y = (K + A \odot K) * X", "test_aw.py::test_one_attention_for_the_batch_is_one_plain_convolution"),
    Law("sk", "mean", "Selective Kernel that cannot choose is the mean of its branches.",
        r"a^1 = a^2 \;\Rightarrow\; X' = (U^1 + U^2) / 2",
        "test_family.py::test_sk_that_cannot_choose_is_the_mean_of_its_branches"),
    Law("direct", "gate", "The direct bridge with a sigmoid is the gate without its bottleneck: a layer "
        "on a concatenation is a sum of layers.", r"W\, [G^1, \dots, G^n] = \textstyle\sum_i W_i G^i",
        "test_family.py::test_the_direct_bridge_with_a_sigmoid_is_the_gate_without_its_bottleneck"),
    Law("dca", "alone", "In the paper's form with alpha = 0, the connected SE, CRA, CBAM and AW are the "
        "unconnected ones to the bit, by the direct and the weighted schema (DCA 3.2).", r"f(G, 0) = G",
        "test_vanilla.py::test_alpha_zero_is_the_vanilla_network"),
    Law("dca", "alone", "So are the connected GE, GC and SK.", r"f(G, 0) = G",
        "test_family.py::test_the_other_modules_too_start_unconnected"),
    Law("dca", "alone", "By the softmax schema they are not: 0 gets a weight too.",
        r"f(G, 0) = \frac{e^{-G}}{e^{-G} + 1}\, G \neq G", "test_vanilla.py::test_softmax_at_alpha_zero_is_not", False),
)  # fmt: skip
ONE, SHARED, CODE = (
    "a law of one module: its own equations, or a second form of them",
    "a property that many modules share or lack, such as seeing places",
    "how a forward pass is recorded or run, whatever the module",
)
APART = {
    "test_family.py::test_pool_and_depthwise_are_one_template": ONE,
    "test_family.py::test_what_reads_only_global_descriptors_commutes_with_any_permutation_of_positions": SHARED,
    "test_family.py::test_what_reads_a_neighbourhood_or_a_grid_does_not": SHARED,
    "test_shift.py::test_no_grid_no_position": SHARED,
    "test_shift.py::test_a_grid_sees_position": SHARED,
    "test_vanilla.py::test_gradients_reach_every_connection_and_are_finite": ONE,
    "test_aw.py::test_eq_2_one_map_for_all_outputs": ONE,
    "test_aw.py::test_eq_3_one_map_for_all_taps": ONE,
    "test_aw.py::test_eq_4_5_attentional_activations_are_attentional_weights": ONE,
    "test_aw.py::test_eq_6_residual": ONE,
    "test_aw.py::test_eq_7_attention_of_a_picture": ONE,
    "test_aw.py::test_every_form_is_the_grouped_one": ONE,
    "test_aw.py::test_the_tap_form_keeps_the_taps_apart": ONE,
    "test_aw.py::test_gradients_of_the_tap_form": ONE,
    "test_aw.py::test_the_form_is_chosen_by_shape": ONE,
    "test_trail.py::test_each_block_appends_one_step_for_each_dimension_in_order": CODE,
    "test_trail.py::test_trace_is_forward_and_repeats": CODE,
    "test_trail.py::test_nothing_of_a_forward_stays_on_a_module": CODE,
    "test_trail.py::test_the_steps_of_one_dimension_are_in_order": CODE,
    "test_trail.py::test_memory_is_kept_where_a_connection_reads_it": CODE,
    "test_trail.py::test_a_block_alone_makes_its_own_trail": CODE,
    "test_trail.py::test_sixteen_threads_on_one_model_equal_the_serial_results": CODE,
}


def graph(laws: Sequence[Law] = LAWS) -> go.Figure:
    """Modules as circles, laws as numbered arrows; the list of the laws has the same numbers, from 1.

    An arrow says that its start is its end in a special case; grey and with a not-equal sign, that it never is.
    """
    figure = go.Figure()
    edges: dict[tuple[str, str], list[int]] = {}
    for number, law in enumerate(laws, 1):
        edges.setdefault((law.source, law.target), []).append(number)
    for (source, target), numbers in edges.items():
        arrow(figure, NODES[source], NODES[target], [(number, laws[number - 1]) for number in numbers])
    figure.add_scatter(
        x=[node.column for node in NODES.values()],
        y=[node.row for node in NODES.values()],
        text=[f"<b>{node.label}</b>" for node in NODES.values()],
        hovertext=[node.words for node in NODES.values()],
        mode="markers+text",
        marker={"size": 2 * RADIUS_PX, "color": BLUE},
        textfont={"color": "white", "size": 12},
        hovertemplate="%{hovertext}<extra></extra>",
    )
    figure.update_xaxes(visible=False, range=[-0.4, 2.4], fixedrange=True)
    figure.update_yaxes(visible=False, range=[4.4, -0.4], fixedrange=True)
    plain(figure, 620, "The modules as a graph. " + " ".join(map(sentence, laws)))
    return figure.update_layout(margin={"l": 0, "r": 0, "t": 0, "b": 0}, showlegend=False)


def arrow(figure: go.Figure, source: Node, target: Node, laws: list[tuple[int, Law]]) -> None:
    """One arrow for all laws between two modules, their numbers beside it, and their words on hover."""
    equal = any(law.equal for _, law in laws)
    figure.add_annotation(
        x=target.column, y=target.row, ax=source.column, ay=source.row, xref="x", yref="y", axref="x", ayref="y",
        showarrow=True, arrowhead=2, arrowwidth=2, arrowcolor=BLUE if equal else GREY, text="",
        standoff=RADIUS_PX + 3, startstandoff=RADIUS_PX + 1,
    )  # fmt: skip
    figure.add_scatter(
        x=[(source.column + target.column) / 2],
        y=[(source.row + target.row) / 2],
        text=[beside(laws, stacked=source.row == target.row)],
        textposition="top center" if source.row == target.row else "middle right",
        textfont={"size": 14, "color": TEXT},
        hovertext=["<br>".join(f"{number}. {'<br>'.join(wrap(law.text, 50))}" for number, law in laws)],
        mode="markers+text",
        marker={"size": 24, "color": "rgba(0, 0, 0, 0)"},
        hovertemplate="%{hovertext}<extra></extra>",
    )


def beside(laws: list[tuple[int, Law]], stacked: bool) -> str:
    """The numbers of an arrow's laws, at most two a line where they stand above it."""
    numbers = [f"{number}" if law.equal else f"{number} \u2260" for number, law in laws]
    lines = [numbers[i : i + 2] for i in range(0, len(numbers), 2)] if stacked else [numbers]
    return ",<br>".join(map(", ".join, lines))


def sentence(law: Law) -> str:
    """The law with its ends."""
    return f"{NODES[law.source].words} -> {NODES[law.target].words}: {law.text}"
