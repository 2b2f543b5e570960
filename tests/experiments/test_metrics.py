"""A counted number agrees with a printed one to its last digit, in the unit that is printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.experiments import metrics


@pytest.mark.parametrize(
    ("printed", "value", "unit", "verdict"),
    [
        ("24.20", 24.20, "%", True),
        ("24.20", 24.2049, "%", True),
        ("24.20", 24.2051, "%", False),
        ("24.20", 24.1949, "%", False),
        ("24.2", 24.24, "%", True),  # one digit printed, one compared
        ("24", 24.4, "%", True),
        ("4.130", 4.1304e9, "G", True),
        ("4.130", 4.1306e9, "G", False),
        ("4.13", 4.1306e9, "G", True),
        ("4.130", 4.1304e6, "G", False),
        ("25.56", 25_557_032, "M", True),
        ("25.56", 25_565_001, "M", False),
        ("25.56", 25_554_999, "M", False),
        ("0.12", 125_000, "M", True),  # a tie goes to the even digit, as print does
        ("0.13", 125_000, "M", False),
        ("0.38", 375_000, "M", True),
        ("0.37", 375_000, "M", False),
        ("853.02K", 853_018, "M", True),  # its own unit goes before the column's
        ("853.02K", 853_026, "M", False),
        ("853.02", 853_018, "M", False),
        ("126.56M", 126_555_546, "G", True),
        ("126.55M", 126_555_546, "G", False),
        ("3.03G", 3_026_870_096, "G", True),
    ],
)
def test_agreement_to_the_printed_digit(printed, value, unit, verdict):
    assert metrics.agrees(printed, value, unit) is verdict


@given(value=st.integers(1, 10**11), unit=st.sampled_from("MG"), digits=st.integers(0, 4))
def test_a_number_agrees_with_its_own_print_and_with_no_other(value, unit, digits):
    number = value / metrics.SCALE[unit]
    printed = f"{number:.{digits}f}"
    assert metrics.agrees(printed, value, unit)
    assert not metrics.agrees(f"{float(printed) + 10**-digits:.{digits}f}", value, unit)


@pytest.mark.parametrize(
    ("printed", "unit", "number"),
    [
        ("853.02K", "M", 0.85302),
        ("126.56M", "G", 0.12656),
        ("3.03G", "G", 3.03),
        ("25.56", "M", 25.56),
        ("0.75", "fraction", 0.75),
    ],
)
def test_a_print_as_a_number_of_its_column(printed, unit, number):
    assert metrics.as_float(printed, unit) == pytest.approx(number, rel=1e-15)
