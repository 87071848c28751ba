"""Lets the tests of this folder import their helpers and the local web server."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parents[1] / "contract")]
