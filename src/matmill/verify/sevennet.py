"""SevenNet-0 in batches: the second opinion, with the weights that its own package brings.

Our neighbour lists, many crystals a pass, and the package's network between them. Its energies are
those of PBE and PBE+U as the Materials Project computes them, without corrections: they belong in
no hull of corrected energies.

Source:
    Park et al., Scalable Parallel Algorithm for Graph Neural Network Interatomic Potentials (2024).
"""

import contextlib
import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import MissingExtraError
from matmill.verify.potentials import MP_RAW, PotentialOutput, compute_in_chunks
from matmill.verify.weights import check_weights

_SHIPPED = "7net-0"


class SevenNetPotential:
    """A SevenNet model of one fidelity, evaluated in batches.

    Args:
        weights: A checkpoint; SevenNet-0 of 11 July 2024 unless given.
        max_atoms: Atoms a pass.

    Raises:
        MissingExtraError: If the package is not installed.
        DataError: If the checkpoint is missing, damaged, or holds more than numbers.
    """

    def __init__(self, weights: str | Path | None = None, *, max_atoms: int = 64) -> None:
        path = _shipped_file() if weights is None else Path(weights)
        content = check_weights(path)
        self.max_atoms = max_atoms
        self.hash = hashlib.sha256(content).hexdigest()[:16]
        self.name = "sevennet-0-11jul2024" if weights is None else f"sevennet-{path.stem}"
        self.scheme = MP_RAW
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # it warns where no GPU library speeds it up
            from sevenn.calculator import SevenNetCalculator

            calculator: Any = SevenNetCalculator(str(path), device="cpu")
        self._network = calculator.model
        self._network.set_is_batch_data(True)
        self._cutoff = float(calculator.cutoff)
        self._elements = frozenset(calculator.type_map)

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        """Return energies, and forces and stress if asked; NaN for elements it never saw."""
        return compute_in_chunks(
            batch, self._evaluate, forces=forces, max_atoms=self.max_atoms, elements=self._elements
        )

    def _evaluate(self, batch: CrystalBatch, forces: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return energies, forces and stresses; the network computes all three in any case."""
        import sevenn._keys as key

        start, end, vector = _bonds(batch, self._cutoff)
        numbers, owner = batch.atomic_numbers.long(), batch.crystal_index
        if not len(start):
            # Atoms without neighbours: the network wants one bond, so give it one of no influence.
            start, end = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
            vector = torch.tensor([[0.0, 0.0, self._cutoff]], dtype=torch.float64)
        graph = {
            key.NODE_FEATURE: numbers,
            key.ATOMIC_NUMBERS: numbers,
            key.POS: batch.cart_coords.float(),
            key.EDGE_IDX: torch.stack([start, end]),
            key.EDGE_VEC: vector.float(),
            key.CELL_VOLUME: batch.volume.float(),
            key.NUM_ATOMS: batch.n_atoms,
            key.BATCH: owner,
        }
        output = self._network(graph)
        # Summed here and not in the network: a cell of many atoms has too many digits for float32.
        site = output[key.ATOMIC_ENERGY].detach().double().reshape(-1)
        energy = torch.zeros(len(batch), dtype=torch.float64).index_add(0, owner, site)
        if not forces:
            return energy, energy[:0], energy[:0]
        pressed = -output[key.PRED_STRESS].detach().double()
        stress = pressed[:, [0, 3, 5, 3, 1, 4, 5, 4, 2]].reshape(-1, 3, 3)  # xx yy zz xy yz zx
        return energy, output[key.PRED_FORCE].detach().double(), stress


def load_sevennet(weights: str | Path | None = None) -> SevenNetPotential:
    """Return SevenNet-0 with the weights of the ``sevenn`` package, or a checkpoint of its kind."""
    return SevenNetPotential(weights)


def _shipped_file() -> Path:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from sevenn.util import pretrained_name_to_path
    except ImportError as error:
        raise MissingExtraError(
            "SevenNet-0 needs the package sevenn: pip install 'matmill[sevenn]'."
        ) from error
    return Path(pretrained_name_to_path(_SHIPPED))


def _bonds(batch: CrystalBatch, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return both ends of every directed bond and the vector along it, Å, float64."""
    from vesin import NeighborList

    neighbours = NeighborList(cutoff=cutoff, full_list=True)
    cart, lattice = batch.cart_coords.double().numpy(), batch.lattice.double().numpy()
    starts, ends, vectors = [], [], []
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        first, second, step = neighbours.compute(
            points=cart[rows], box=lattice[i], periodic=True, quantities="ijD"
        )
        starts.append(first.astype(np.int64) + rows.start)
        ends.append(second.astype(np.int64) + rows.start)
        vectors.append(step)
    return (
        torch.from_numpy(np.concatenate(starts)),
        torch.from_numpy(np.concatenate(ends)),
        torch.from_numpy(np.concatenate(vectors).reshape(-1, 3)),
    )
