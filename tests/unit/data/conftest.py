"""Lets the tests of this folder use the local web server of the contract tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "contract"))
