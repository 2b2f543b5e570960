"""A link, its widget and what a page is given always agree, whatever the link says."""

import io

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest
from views import HOSTILE, notices, text

from workbench.errors import Corrupt, OutOfRange

MARKDOWN = ["[here](http://evil.test)", "![](http://evil.test/a.png)", "`x` :red[y] $z$", "a\u202eb", "\ud55c\uae00"]
NUMBERS = ["nan", "inf", "-1", "2.0", "1e0", "07", " 2", "99", "2" * 4000, "\u0662", "0x2", "True", ""]


def choices():
    import streamlit as st
    from state import choose, choose_number, choose_several

    options = {"x": "The first", "y": "The second", "z": "The third"}
    one = choose("One", "one", options, "x")
    several = choose_several("Several", "several", options, ["x", "y"], 2)
    number = choose_number("Number", "number", 1, 5 if one == "x" else 3, 2)
    st.text(f"{one} {'+'.join(several)} {number}")


def narrowing():
    import streamlit as st
    from state import choose

    table = choose("Table", "table", {"a": "A", "b": "B"}, "a")
    st.text(choose("Budget", "budget", {"p": "P", "q": "Q"} if table == "a" else {"r": "R", "p": "P"}, "p"))


@pytest.fixture
def run(page):
    """run(script, **query): what a page of these choices shows under this link."""

    def start(script, **query):
        test = AppTest.from_function(script, default_timeout=60)
        for key, value in query.items():
            test.query_params[key] = value
        return test.run()

    return start


def given(test):
    assert not test.exception
    return test.text[0].value


def test_without_a_link_the_defaults_are_shown_and_stand_in_the_link(run):
    test = run(choices)
    assert given(test) == "x x+y 2" and not notices(test)
    assert test.query_params == {"one": "x", "several": ["x", "y"], "number": "2"}


def test_a_link_is_followed(run):
    test = run(choices, one="y", several=["z", "x"], number="3")
    assert given(test) == "y z+x 3" and not notices(test)
    assert (test.selectbox[0].value, test.multiselect[0].value, test.slider[0].value) == ("y", ["z", "x"], 3)


def test_every_change_of_a_widget_counts_also_the_second(run):
    """A widget whose start value follows the link would be another widget after each change, and forget it."""
    test = run(choices)
    for one, several, number in (("y", ["y"], 3), ("z", ["y", "z"], 1), ("y", ["x"], 2), ("x", ["x", "z"], 5)):
        test.selectbox[0].select(one).run()
        test.multiselect[0].set_value(several).run()
        test.slider[0].set_value(number).run()
        assert given(test) == f"{one} {'+'.join(several)} {number}" and not notices(test)
        assert test.query_params["one"] == one and test.query_params["number"] == str(number)
        assert test.selectbox[0].value == one and test.slider[0].value == number


def test_the_back_button_wins_over_the_widget(run):
    test = run(choices, one="y")
    test.selectbox[0].select("z").run()
    assert given(test).startswith("z")  # witness
    test.query_params["one"] = "y"  # as the browser sends it
    test.run()
    assert given(test).startswith("y") and test.selectbox[0].value == "y"


def test_a_link_older_than_the_widgets_is_overruled_by_the_one_that_moves(run):
    """The browser sends the link as it knows it, which may be that before the last change."""
    test = run(choices)
    test.selectbox[0].select("y").run()
    test.query_params["one"] = "x"
    test.slider[0].set_value(3).run()
    assert given(test) == "y x+y 3"


def test_an_emptied_box_stays_empty_and_the_default_is_shown_and_said(run):
    test = run(choices, several="z")
    test.multiselect[0].set_value([]).run()
    for _ in range(2):
        assert given(test) == "x x+y 2" and test.multiselect[0].value == []
        assert "Nothing is chosen; showing The first and The second." in text(test)
        assert test.query_params["several"] == ["x", "y"]
        test.run()
    test.multiselect[0].set_value(["y"]).run()
    assert given(test) == "x y 2" and "Nothing is chosen" not in text(test)


def test_of_a_repeated_parameter_the_last_counts_and_repetitions_are_one(run):
    test = run(choices, one=["x", "z"], several=["y"] * 50, number=["1", "3"])
    assert given(test) == "z y 3" and not notices(test)
    assert given(run(choices, several=["x", "y", "z"])) == "x x+y 2"  # two at most
    test = run(choices, several=["nonsense", "z"])
    assert given(test) == "x z 2" and len(notices(test)) == 1


@pytest.mark.parametrize("key", ["one", "several", "number"])
def test_what_is_not_there_shows_the_default_and_one_line(run, key):
    for hostile in [*HOSTILE, *MARKDOWN, *(NUMBERS if key == "number" else [])]:
        test = run(choices, **{key: hostile})
        if hostile:
            (notice,) = notices(test)
            assert len(notice) < 130 and "\n" not in notice and notice.count("`") == 2, notice
            assert "\u202e" not in notice
        assert given(test) == ("x x+y 2")
        test.run()
        assert not notices(test) and given(test) == "x x+y 2"  # the link was put right


def test_a_choice_that_the_next_box_does_not_have_falls_away_in_silence(run):
    test = run(narrowing, budget="q")
    test.selectbox[0].select("b").run()
    assert given(test) == "p" and not notices(test)  # nobody opened a link
    assert test.query_params["budget"] == "p" and test.selectbox[1].value == "p"
    assert notices(run(narrowing, table="b", budget="q"))  # witness: here somebody did
    test.selectbox[1].select("r").run()
    assert given(test) == "r"
    test.selectbox[0].select("a").run()
    assert given(test) == "p" and test.selectbox[1].value == "p"


def test_a_slider_whose_range_shrinks_keeps_what_it_may(run):
    test = run(choices, number="3")
    test.selectbox[0].select("y").run()
    assert given(test) == "y x+y 3" and test.slider[0].value == 3
    test.selectbox[0].select("x").run()
    test.slider[0].set_value(5).run()
    test.selectbox[0].select("z").run()
    assert given(test) == "z x+y 2" and test.slider[0].value == 2


def networks():
    import streamlit as st
    from state import choose_networks, store

    from workbench.experiments import zoo

    among = zoo.known(store())
    several = choose_networks("networks", among, ["cra4-resnet8", "nosuch", "se-resnet8"], 2)
    (one,) = choose_networks("network", among, ["nosuch"], 1)
    st.text(f"{' '.join(among[key].model for key in several)} | {among[one].key == next(iter(among))}")


def test_networks_come_in_order_of_preference_with_a_fallback(run, models):
    test = run(networks)
    assert given(test) == "cra4-resnet8 se-resnet8 | True"


def test_without_networks_a_page_says_what_to_run(run):
    test = run(networks)
    assert not test.exception and not test.text
    assert "workbench train" in test.info[0].value


def pictures():
    import streamlit as st
    from state import choose_pictures

    for one in (*choose_pictures("pictures", ["pattern:stripes", "nosuch"], 2), *choose_pictures("picture", [], 1)):
        st.text(f"{one.name} {one.pixels.shape} {one.pixels.dtype}")


def test_pictures_by_name_and_an_uploaded_one(run):
    test = run(pictures)
    assert not test.exception
    assert [line.value for line in test.text] == ["pattern:stripes (64, 64, 3) uint8", "pattern:grey (64, 64, 3) uint8"]
    for name in ("../../x.png", "x" * 4000 + ".png", "\u202e.png"):
        test.file_uploader[0].set_value((name, encoded(np.zeros((30, 40, 3), np.uint8)), "image/png")).run()
        assert not test.exception and not test.warning
        shown = [line.value for line in test.text]
        assert shown[:2] == ["uploaded (30, 40, 3) uint8", "pattern:stripes (64, 64, 3) uint8"]
        assert "uploaded" not in str(test.query_params)
    test.file_uploader[0].set_value(("a.png", b"GIF89a", "image/png")).run()
    assert not test.exception and "This picture" in test.warning[0].value
    assert test.text[0].value.startswith("pattern:stripes")


def encoded(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_an_upload_is_made_small_and_keeps_its_form(page):
    from state import LIMIT_PIXELS, SIDE_PX, decoded

    ramp = np.dstack([np.arange(1000, dtype=np.uint8).repeat(500).reshape(1000, 500) for _ in range(3)])
    assert decoded(encoded(ramp)).shape == (SIDE_PX, SIDE_PX // 2, 3)
    assert np.array_equal(decoded(encoded(ramp[:400, :300])), ramp[:400, :300])
    assert decoded(encoded(ramp[:1].repeat(60, 1))).shape == (1, SIDE_PX, 3)  # 30,000 x 1
    assert decoded(encoded(np.zeros((30_000, 1, 3), np.uint8))).shape == (SIDE_PX, 1, 3)
    with pytest.raises(OutOfRange, match=r"This picture has 4000 x 3001 pixels; at most 12 million"):
        decoded(encoded(np.zeros((3001, 4000, 3), np.uint8)))
    assert LIMIT_PIXELS == 4000 * 3000
    with pytest.raises(Corrupt, match="This picture is no picture in a format known here"):
        decoded(b"")


def test_what_a_session_does_with_an_uploaded_picture_no_other_sees(page):
    from state import decoded

    data = encoded(np.full((4, 4, 3), 7, np.uint8))
    decoded(data)[:] = 0
    assert (decoded(data) == 7).all()
