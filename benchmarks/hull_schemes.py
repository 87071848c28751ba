"""Energies of potentials on DFT's hull: are schemes and elements kept apart as they must be?

    python benchmarks/hull_schemes.py --rows 1500

Validation rows of MP-20 at their given geometry against their DFT hull distance (tabulated, else
recomputed). CHGNet's energies carry the corrections of 2020; they meet the formation energies of
``hull_reference.parquet`` through the elements' energies of PBE, or through CHGNet's own.
SevenNet-0 gives raw energies; it is corrected first. The last line leaves that out, on purpose, to
show what the refusal of mixed schemes prevents. Run ``build_hull_energies.py --extend`` and
``votes.py --sevennet`` before: their energies are used.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from hull_common import DATA, WORK
from matmill.verify import schemes
from matmill.verify.hull import Hull
from matmill.verify.hull_reference import read_hull
from votes import chgnet, validation_rows


class Named:
    """A potential as far as hulls care."""

    def __init__(self, name: str, scheme: str) -> None:
        self.name, self.scheme = name, scheme


def sevennet_energies() -> dict[str, float]:
    """Return energies per atom by id of what ``votes.py --sevennet`` computed."""
    found: dict[str, float] = {}
    for path in sorted((WORK / "sevennet").glob("*.parquet")):
        part = pq.read_table(path)
        keys, values = part["material_id"].to_pylist(), part["energy_ev_per_atom"].to_pylist()
        found.update(zip(keys, values, strict=True))
    return found


def with_own_elements() -> Hull:
    """Return the DFT hull as it is read where no energies of the elements are at hand."""
    data = os.environ.pop("MATMILL_DATA", None)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "hull_reference.parquet"
        shutil.copy(DATA / copy.name, copy)
        hull = read_hull(copy)
    if data is not None:
        os.environ["MATMILL_DATA"] = data
    return hull


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1500)
    torch.set_num_threads(1)
    rows = validation_rows()
    about = pq.read_table(DATA / "mp_20.parquet").to_pandas().set_index("material_id")
    known = about["energy_above_hull_ev"].fillna(about["energy_above_hull_est_ev"])
    seven = sevennet_energies()
    # Rows that SevenNet-0 has come first, the others as they come.
    order = sorted(range(len(rows.batch)), key=lambda i: rows.batch.ids[i] not in seven)
    batch = rows.batch.select(torch.tensor(order[: parser.parse_args().rows]))
    truth = known.loc[list(batch.ids)].to_numpy()
    own = chgnet()[1]
    dft = read_hull(DATA / "hull_reference.parquet")
    mine = Named("chgnet-0.3.0", "mp2020-corrected")
    theirs = Named("sevennet-0", "mp-raw")
    answer: dict[str, object] = {}

    def measure(label: str, hull: Hull, potential: Named, energies: dict[str, float]) -> None:
        per_atom = torch.tensor([energies.get(key, float("nan")) for key in batch.ids])
        good = torch.isfinite(per_atom)
        part = batch.select(good)
        energy = per_atom[good].double() * part.n_atoms
        above = schemes.energy_above(hull, potential, energy, part).numpy()
        error = above - truth[good.numpy()]
        error = error[np.isfinite(error)]
        answer[label] = {
            "hull": schemes.hull_name(hull, potential),
            "n": len(error),
            "mae_mev_per_atom": round(1000 * float(np.abs(error).mean()), 1),
            "median_mev_per_atom": round(1000 * float(np.median(np.abs(error))), 1),
            "bias_mev_per_atom": round(1000 * float(error.mean()), 1),
        }

    measure("CHGNet on its own hull", Hull.load(), mine, own)
    measure("CHGNet on DFT's hull, elements of PBE", dft, mine, own)
    measure("CHGNet on DFT's hull, its own elements", with_own_elements(), mine, own)
    measure("SevenNet-0 corrected, on DFT's hull", dft, theirs, seven)
    wrong = Named("sevennet-0 taken as corrected", "mp2020-corrected")
    measure("SevenNet-0 uncorrected, on DFT's hull (wrong)", dft, wrong, seven)
    text = json.dumps(answer, indent=2) + "\n"
    (WORK / "hull_schemes.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
