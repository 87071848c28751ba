"""What the tests of this folder share; they may also import the helpers beside them."""

import sys
from pathlib import Path

import pytest

from matmill.data.download import Patience
from matmill.data.sources import Request

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def structures():
    from pymatgen.core import Lattice, Structure

    def make(a, symbols):
        spots = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
        lattice = Lattice.from_parameters(a, a * 1.1, a * 1.3, 80, 95, 110)
        return Structure(lattice, symbols, spots[: len(symbols)])

    return [make(4.0 + 0.01 * i, ["Mg", "O", "Ti", "Fe"][: 2 + i % 3]) for i in range(11)]


@pytest.fixture
def ask(tmp_path):
    def request(**changes):
        patience = Patience(timeout=5.0, tries=2, sleep=lambda _: None)
        return Request(**{"cache": tmp_path, "patience": patience, **changes})

    return request
