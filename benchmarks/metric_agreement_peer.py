"""The other side of `metric_agreement.py`: CDVAE's metrics by the libraries that CDVAE calls.

    PEER_PYTHON benchmarks/metric_agreement_peer.py CRYSTALS.npz ANSWERS.npz

Runs without matmill, in an environment of its own (matminer needs an old pandas). The definitions
are those of the paper and of its published evaluation: fingerprints by matminer, distances and
Wasserstein-1 by SciPy, structures by pymatgen, oxidation states and electronegativities by SMACT.
"""

import itertools
import sys
import time
import warnings
from collections import Counter

import numpy as np
import smact
from matminer.featurizers.composition import ElementProperty
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.core import Composition, Element, Lattice, Structure
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

CUTOFFS = (0.4, 10.0)
LEAST_DISTANCE_A = 0.5
LEAST_VOLUME_A3 = 0.1

warnings.simplefilter("ignore")


def structures(file, name):
    """Return the crystals of one set as pymatgen structures."""
    ends = np.cumsum(file[f"{name}_n_atoms"])
    found = []
    for lattice, n, end in zip(file[f"{name}_lattice"], file[f"{name}_n_atoms"], ends, strict=True):
        atoms = slice(end - n, end)
        species = [Element.from_Z(int(z)) for z in file[f"{name}_numbers"][atoms]]
        found.append(Structure(Lattice(lattice), species, file[f"{name}_frac"][atoms]))
    return found


def geometry_is_valid(structure):
    """Return CDVAE's verdict: 0.5 Å between different atoms, own images not looked at."""
    distances = structure.distance_matrix
    distances = distances + np.diag(np.full(len(distances), LEAST_DISTANCE_A + 10.0))
    return bool(distances.min() >= LEAST_DISTANCE_A and structure.volume >= LEAST_VOLUME_A3)


def composition_is_valid(structure):
    """Return SMACT's verdict by enumeration: neutral, and every cation less electronegative."""
    counts = Counter(site.specie.symbol for site in structure)
    symbols = sorted(counts)
    if len(symbols) == 1 or all(symbol in smact.metals for symbol in symbols):
        return True
    divisor = np.gcd.reduce([counts[symbol] for symbol in symbols])
    stoichiometry = [counts[symbol] // divisor for symbol in symbols]
    elements = [smact.Element(symbol) for symbol in symbols]
    levels = [element.pauling_eneg for element in elements]
    for states in itertools.product(*(element.oxidation_states_smact14 for element in elements)):
        if sum(q * n for q, n in zip(states, stoichiometry, strict=True)):
            continue
        if any(level is None for level in levels):
            return True  # the original takes an error of the test for a pass
        cations = [x for x, q in zip(levels, states, strict=True) if q > 0]
        anions = [x for x, q in zip(levels, states, strict=True) if q < 0]
        if not cations or not anions or max(cations) < min(anions):
            return True
    return False


def fingerprints(found, name):
    """Return mean order parameters (NaN where matminer fails) and Magpie vectors, raw."""
    sites = CrystalNNFingerprint.from_preset("ops")
    magpie = ElementProperty.from_preset("magpie", impute_nan=False)
    n_columns = len(sites.feature_labels())
    ordered, elements = [], []
    begin = time.process_time()
    for k, structure in enumerate(found):
        elements.append(magpie.featurize(Composition(structure.composition)))
        try:
            rows = [sites.featurize(structure, i) for i in range(len(structure))]
            ordered.append(np.mean(rows, axis=0))
        except Exception as error:
            print(f"{name} {k}: {type(error).__name__}: {error}", flush=True)
            ordered.append(np.full(n_columns, np.nan))
        if (k + 1) % 100 == 0:
            spent = time.process_time() - begin
            print(f"{name}: {k + 1} of {len(found)}, {spent:.0f} CPU s", flush=True)
    return np.array(ordered, dtype=float), np.array(elements, dtype=float)


def main(crystals, answers):
    file = np.load(crystals)
    found, answer = {}, {}
    for name in ("reference", "samples"):
        found[name] = structures(file, name)
        ordered, elements = fingerprints(found[name], name)
        answer |= {f"{name}_structure": ordered, f"{name}_composition": elements}
        answer[f"{name}_density"] = np.array([float(s.density) for s in found[name]])
        answer[f"{name}_n_elements"] = np.array([len(set(s.species)) for s in found[name]])
    answer["geometry"] = np.array([geometry_is_valid(s) for s in found["samples"]])
    answer["composition"] = np.array([composition_is_valid(s) for s in found["samples"]])
    scaled = {
        name: np.nan_to_num((answer[f"{name}_composition"] - file["mean"]) / file["std"], nan=0.0)
        for name in found
    }
    good = np.isfinite(answer["samples_structure"]).all(1)
    of_structure = cdist(answer["samples_structure"][good], answer["reference_structure"])
    of_composition = cdist(scaled["samples"][good], scaled["reference"])
    near = [(d.min(axis=axis)) for axis in (0, 1) for d in (of_structure, of_composition)]
    answer["cov_r"] = np.mean((near[0] <= CUTOFFS[0]) & (near[1] <= CUTOFFS[1]))
    answer["cov_p"] = np.sum((near[2] <= CUTOFFS[0]) & (near[3] <= CUTOFFS[1])) / len(good)
    for key, distances in zip(("amsd_r", "amcd_r", "amsd_p", "amcd_p"), near, strict=True):
        answer[key] = distances.mean()
    # A crystal without a fingerprint is not valid there.
    valid = answer["geometry"] & answer["composition"] & good
    answer["valid"] = valid
    for key in ("density", "n_elements"):
        values = answer[f"samples_{key}"][valid], answer[f"reference_{key}"]
        answer[f"w1_{key}"] = wasserstein_distance(*values)
    np.savez(answers, **answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
