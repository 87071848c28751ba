"""Descriptors kept on disk are those of their rows, also where rows repeat."""

import torch

from matmill.crystals.compositions import parse_formulas
from matmill.predict.descriptors.blocks import compute
from matmill.predict.tabular.kept import kept_features
from matmill.progress import ignore


def test_rows_that_repeat_keep_their_own_values(tmp_path):
    batch = parse_formulas(["NaCl", "NaCl", "MgO", "NaCl", "TiO2", "MgO", "Fe2O3"])
    fresh = compute(batch, ["composition"]).values
    for _ in range(2):  # computed, then read back
        kept = kept_features(batch, ("composition",), folder=tmp_path, on_event=ignore)
        assert torch.equal(kept.values.nan_to_num(), fresh.nan_to_num())
