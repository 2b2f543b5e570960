"""The family graph says what the laws prove: every edge has its test, and every law about two modules its edge."""

import ast
from pathlib import Path

from workbench.explain.family import APART, LAWS, NODES, graph, sentence

TESTS = Path(__file__).resolve().parents[1] / "laws"


def proved(folder):
    """file::function of every test in the folder."""
    return {
        f"{path.name}::{node.name}"
        for path in sorted(folder.glob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_law_of_two_modules_is_an_edge_and_every_edge_is_a_law():
    drawn = {law.test for law in LAWS}
    assert drawn | {*APART} == proved(TESTS)
    assert not drawn & {*APART}
    assert all(APART.values())


def test_a_test_that_is_not_there_is_seen(tmp_path):
    """Witness: the reader of the tests tells a renamed one from the law it was."""
    (tmp_path / "test_family.py").write_text("def test_renamed():\n    pass\n\n\ndef helper():\n    pass\n")
    assert proved(tmp_path) == {"test_family.py::test_renamed"}
    assert len(proved(TESTS)) > len(LAWS)


def test_what_differs_is_what_the_tests_call_different():
    """An edge that says `never` names a test with a witness; one that says `is` a test of equality."""
    for law in LAWS:
        file, function = law.test.split("::")
        tree = ast.parse((TESTS / file).read_text())
        body = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
        used = {node.id for node in ast.walk(body) if isinstance(node, ast.Name)}
        used |= {node.attr for node in ast.walk(body) if isinstance(node, ast.Attribute)}
        assert used & ({"same", "equal", "assert_close"} if law.equal else {"differ", "equal"})


def test_every_node_has_an_edge_and_every_edge_two_nodes():
    ends = {end for law in LAWS for end in (law.source, law.target)}
    assert ends == {*NODES}
    assert len({(node.column, node.row) for node in NODES.values()}) == len(NODES)


def test_the_graph_numbers_every_law_once():
    figure = graph()
    labels = [trace.text[0].replace("<br>", " ") for trace in figure.data[:-1]]
    numbers = [int(part.rstrip(" \u2260")) for label in labels for part in label.split(", ")]
    assert sorted(numbers) == [*range(1, len(LAWS) + 1)]
    never = [int(part.rstrip(" \u2260")) for label in labels for part in label.split(", ") if "\u2260" in part]
    assert never == [number for number, law in enumerate(LAWS, 1) if not law.equal]
    assert len(figure.layout.annotations) == len({(law.source, law.target) for law in LAWS})
    assert all(sentence(law) in figure.layout.meta for law in LAWS)
    assert [*figure.data[-1].text] == [f"<b>{node.label}</b>" for node in NODES.values()]


def test_an_arrow_runs_from_its_source_to_its_target():
    law = LAWS[0]
    arrow = graph([law]).layout.annotations[0]
    assert (arrow.ax, arrow.ay) == NODES[law.source][:2] and (arrow.x, arrow.y) == NODES[law.target][:2]
    other = graph([law._replace(source=law.target, target=law.source)]).layout.annotations[0]
    assert (arrow.ax, arrow.ay) != (other.ax, other.ay)  # witness


def test_a_law_is_a_sentence_with_an_equation():
    for law in LAWS:
        assert law.text.endswith(".") and law.equation.count("{") == law.equation.count("}")
    assert len({(law.source, law.target, law.equation) for law in LAWS}) == len(LAWS) - 1  # GE, GC and SK as the others
