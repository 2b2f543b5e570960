"""How pytest compares a learning notebook with its stored outputs: text and numbers, not pictures.

pytest --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg notebooks/learn
"""

import os
import tempfile

import pytest

PICTURES = ("text/html", "application/vnd.plotly.v1+json", "image/png", "image/svg+xml", "stderr")
empty = tempfile.TemporaryDirectory(prefix="workbench-")  # goes with the process

# A kernel inherits these: the stored numbers are those of the project alone, not of one's own runs or data sets.
os.environ.update(OMP_NUM_THREADS="1", WORKBENCH_RUNS=empty.name, WORKBENCH_DATA=empty.name)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Leave pictures, and tables as HTML beside their text, out of the comparison."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += PICTURES
