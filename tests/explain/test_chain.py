"""The chain is read off the network as it runs: who hears whom, with which weights, through what."""

import pytest
import torch

from workbench.attach import trace
from workbench.attention import attentions
from workbench.attention.base import Trail
from workbench.build import build
from workbench.errors import Corrupt, OutOfRange
from workbench.explain import chain, maps
from workbench.explain.figures import COLOURS

NAMES = [
    "dca-se-resnet14",
    "dca-cbam-resnet8",
    "dca-sk-resnet8",
    "dca-ge8-resnet8",
    "dca-aw-resnet8",
    "dca[form=text,schema=weighted]-cra4-resnet8",
    "dca[reach=dense]-se-resnet14",
    "dca[reach=tree]-cbam-resnet14",
]


def made(name):
    """A network whose memories weigh something."""
    torch.manual_seed(0)
    network = build(name, classes=5, checked=False)
    for parameter_name, parameter in network.named_parameters():
        if "merge" in parameter_name:
            torch.nn.init.uniform_(parameter, 0.2, 1)
    with torch.no_grad():
        network(torch.randn(4, 3, 32, 32))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_shares_add_up_to_the_contribution(name, pictures):
    network = made(name)
    chains = chain.read(network, pictures)
    found = {}
    for one in chains:
        for link in one.links:
            place = one.blocks[link.later].site, one.dim
            found[place] = found.get(place, 0) + link.share
    expected = {(site, dim): ratio for site, dim, ratio in maps.contribution(network)}
    assert found == pytest.approx(expected) and all(0 < share < 1 for share in found.values())
    assert chain.places(network) == list(expected)
    with torch.device("meta"):
        assert chain.places(build(name, classes=5, checked=False)) == list(expected)
    first = next(block for block in attentions(network) if block.connection is not None and chain._parts(block))
    next(getattr(first.connection, "first", first.connection).merge.parameters()).data[-1] += 1
    assert found != pytest.approx({(site, dim): ratio for site, dim, ratio in maps.contribution(network)})  # witness


def test_links_are_those_of_the_reach(pictures):
    (one,) = chain.read(made("dca-se-resnet14"), pictures)
    assert [block.site for block in one.blocks] == ["1.1", "1.2", "2.1", "2.2", "3.1", "3.2"]
    assert [block.width for block in one.blocks] == [16, 16, 32, 32, 64, 64]
    assert [(link.earlier, link.later) for link in one.links] == [(i, i + 1) for i in range(5)]
    (dense,) = chain.read(made("dca[reach=dense]-se-resnet14"), pictures)
    assert sorted((link.earlier, link.later) for link in dense.links) == [
        (i, j) for i in range(6) for j in range(i + 1, 6)
    ]
    tree = chain.read(made("dca[reach=tree]-cbam-resnet14"), pictures)
    assert [one.dim for one in tree] == ["channel", "spatial"]
    assert {link.earlier for link in tree[0].links if link.later == 3} == {1, 2}  # as the docstring of dca.py counts


def test_weights_are_those_of_the_merge(pictures):
    network = made("dca-se-resnet8")
    (one,) = chain.read(network, pictures)
    blocks = list(attentions(network))
    for link in one.links:
        ((own, earlier),) = link.weights
        assert [own, earlier] == blocks[link.later].connection.merge.weight.tolist()
        assert link.share == pytest.approx(abs(earlier) / (abs(own) + abs(earlier)))
    (sk,) = chain.read(made("dca-sk-resnet8"), pictures)
    assert all(len(link.weights) == 2 for link in sk.links)
    assert {"w_current, branch 1", "w_earlier, branch 2"} <= {*chain.rows(sk)[0]}


@pytest.mark.parametrize(
    ("name", "number", "words", "parameters"),
    [
        ("dca-se-resnet14", 0, "nothing, the sizes are equal", 0),
        ("dca-se-resnet14", 1, "1 fully-connected layer (fc1) 16 → 32", 16 * 32 + 3 * 32),
        (
            "dca[match=fc2,reduction=8]-se-resnet14",
            1,
            "2 fully-connected layers (fc2) 16 → 4 → 32",
            4 * 16 + 12 + 32 * 7,
        ),
        ("dca[form=text]-se-resnet14", 1, "1 fully-connected layer (fc1) 16 → 32", 16 * 32 + 32),
        ("dca[dims=spatial]-cbam-resnet14", 1, "avg pooling 32x32 → 16x16", 0),
        ("dca[dims=spatial,pool=max]-cbam-resnet14", 1, "max pooling 32x32 → 16x16", 0),
        ("dca-ge8-resnet14", 1, "avg pooling 32x32 → 16x16 and 1x1 convolution 16 → 32", 17 * 32 + 2 * 32),
        ("dca-sk-resnet14", 1, "1 fully-connected layer (fc1) 16 → 32", 2 * (16 * 32 + 3 * 32)),
        ("dca[reach=dense]-se-resnet14", 1, "1 fully-connected layer (fc1) 16 → 32, shared by all of width 16", 608),
    ],
)
def test_what_matches_sizes_and_how_many_parameters_it_has(name, number, words, parameters, pictures):
    links = chain.read(made(name), pictures)[0].links
    link = links[number]
    assert (link.matching, link.parameters) == (words, parameters)


def test_the_parameters_of_the_chain_are_those_that_connecting_adds(pictures):
    network, plain = made("dca-cbam-resnet8"), made("cbam-resnet8")
    added = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in plain.parameters())
    assert sum(block.parameters for one in chain.read(network, pictures) for block in one.blocks) == added > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_gate_moves_as_much_as_a_memory_of_zeros_would_move_it(name, pictures):
    """Against a forward of the block on its own, with matching that returns zeros."""
    network = made(name)
    found = chain.moved(network, pictures)
    assert list(found) == sorted(chain.places(network), key=lambda place: [d for _, d in found].index(place[1]))
    steps = {(str(step.site), step.dim): step for step in trace(network, pictures)[1].steps}
    blocks = {(str(block.site), block.dim): block for block in attentions(network)}
    for place, change in found.items():
        block, step = blocks[place], steps[place]
        earlier = [one for one in steps.values() if one.dim == place[1]]
        trail = Trail(steps=earlier[: [str(one.site) for one in earlier].index(place[0])])
        assert torch.equal(block.transform(block.connection(step.extracted, trail)), step.attention)  # what T is
        parts = [block.connection] if not hasattr(block.connection, "first") else list(block.connection.children())
        for part in parts:
            for match in part.match.values():
                match.forward = lambda memory, G: torch.zeros_like(G)
        unheard = block.transform(block.connection(step.extracted, trail))
        assert change == pytest.approx(float((step.attention - unheard).abs().mean()), rel=1e-5, abs=1e-9)
    assert max(found.values()) > 1e-4  # witness: not all are zero


def test_nothing_moves_where_nothing_is_heard(pictures):
    """With alpha = 0 the network is the vanilla one, DCA 3.2."""
    torch.manual_seed(0)
    network = build("dca[form=text]-se-resnet8", classes=5, checked=False).eval()
    assert set(chain.moved(network, pictures).values()) == {0.0}
    assert all(link.share == 0 for link in chain.read(network, pictures)[0].links)
    assert set(chain.moved(made("dca[form=text]-se-resnet8"), pictures).values()) != {0.0}


def test_a_network_without_connections_is_refused(pictures):
    with pytest.raises(OutOfRange, match="has no connection"):
        chain.read(made("se-resnet8"), pictures)


def test_shares_of_a_record():
    places = [("1.2", "channel"), ("1.2", "spatial"), ("2.1", "channel"), ("2.1", "spatial")]
    metrics = {"contribution": [0.1, 0.2], "contribution_spatial": [0.3, 0.4], "top1_error": 5.0}
    assert chain.shares(places, metrics) == [
        ("1.2", "channel", 0.1),
        ("2.1", "channel", 0.2),
        ("1.2", "spatial", 0.3),
        ("2.1", "spatial", 0.4),
    ]
    for wrong in ({"contribution": [0.1, 0.2]}, metrics | {"contribution": [0.1]}):
        with pytest.raises(Corrupt, match="for 2 connections; run `workbench doctor`"):
            chain.shares(places, wrong)


@pytest.fixture(scope="module")
def drawn():
    blocks = tuple(chain.Block(site, width, 10) for site, width in (("1.1", 16), ("1.2", 16), ("2.1", 32)))
    links = (
        chain.Link(0, 1, 0.25, ((3.0, -1.0),), "nothing, the sizes are equal", 0),
        chain.Link(0, 2, 0.5, ((1.0, 1.0),), "fc1", 1608),
        chain.Link(1, 2, 0.0, ((1.0, 0.0),), "fc1", 1608),
    )
    return chain.figure(chain.Chain("channel", blocks, links), "a network")


def test_arrows_are_as_thick_as_their_share(drawn):
    arcs = [trace for trace in drawn.data if trace.mode == "lines"]
    assert [arc.line.width for arc in arcs] == [3, 5, 1]
    assert [(round(arc.y[0]), round(arc.y[-1])) for arc in arcs] == [(0, 1), (0, 2), (1, 2)]
    assert max(arcs[1].x) > max(arcs[0].x) == max(arcs[2].x)  # a longer way passes further out
    assert [note.text for note in drawn.layout.annotations if note.text.startswith("0.")] == ["0.25", "0.50", "0.00"]
    heads = [note for note in drawn.layout.annotations if note.showarrow is not False]
    assert [round(head.y) for head in heads] == [1, 2, 2] and all(head.ay < head.y for head in heads)
    assert "w_earlier -1.0000, w_current 3.0000" in arcs[0].hovertemplate and "1.1 → 1.2" in arcs[0].hovertemplate
    assert "matched by fc1: 1,608 parameters" in arcs[1].hovertemplate


def test_blocks_stand_in_the_order_of_the_forward_pass(drawn):
    (discs,) = [trace for trace in drawn.data if trace.mode == "markers+text"]
    assert list(discs.text) == ["1.1", "1.2", "2.1"] and list(discs.y) == [0, 1, 2]
    assert drawn.layout.yaxis.range[0] > drawn.layout.yaxis.range[1]  # from top to bottom
    assert list(discs.marker.color) == [COLOURS[1], COLOURS[1], COLOURS[2]]
    assert {"16 channels", "32 channels"} < {note.text for note in drawn.layout.annotations}
    assert [shape.y0 for shape in drawn.layout.shapes] == [1.5]


def test_the_figure_is_said_in_words(drawn):
    assert drawn.layout.meta == (
        "The 3 channel attention blocks of a network in the order of the forward pass, and their 3 connections; the "
        "least share is 0.00, 1.2 to 2.1, the greatest 0.50, 1.1 to 2.1."
    )
    assert drawn.layout.paper_bgcolor == drawn.layout.plot_bgcolor == "rgba(0,0,0,0)"
