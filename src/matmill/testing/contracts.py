"""Checks that a plug-in keeps the contract of its kind; for its authors and for our own tests."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import InputError, MatmillError
from matmill.generate.protocol import GenerationRequest, Generator
from matmill.predict.protocol import Prediction, Predictor

_TOLERANCE = 1e-4  # relative; single precision, summed in another order


class ContractError(MatmillError, AssertionError):
    """A plug-in does not keep its contract; the message says which clause."""


def check_predictor(
    predictor: Predictor, *, reload: Callable[[Predictor], Predictor] | None = None
) -> None:
    """Check shapes, types, determinism, and the edge cases of a predictor.

    Tried: an empty batch, a cell of one atom, one of 200 atoms, a mixed batch in another order,
    and, where given, a copy that went through a file.

    Args:
        predictor: Made and trained, ready to predict.
        reload: Saves and loads it again.

    Raises:
        ContractError: Naming the first clause that is broken.

    Example:
        >>> from matmill.predict.exact import ExactPredictor
        >>> check_predictor(ExactPredictor("density_g_cm3"))
    """
    _insist(isinstance(predictor, Predictor), "it has column, card and predict(batch)")
    _insist(bool(predictor.column), "its column has a name")
    _insist(isinstance(predictor.card, dict), "its card is a dictionary")
    for name, batch in _batches().items():
        first = predictor.predict(batch)
        _check_prediction(first, predictor.column, len(batch), name)
        again = predictor.predict(batch)
        _insist(_is_same(first, again, 0.0), f"it repeats itself exactly ({name})")
        if reload is not None:
            copy = reload(predictor).predict(batch)
            _insist(_is_same(first, copy, 0.0), f"saving and loading changes nothing ({name})")
    mixed = _batches()["mixed cells"]
    order = torch.tensor([2, 0, 1])
    whole, moved = predictor.predict(mixed), predictor.predict(mixed.select(order))
    _insist(_is_same(whole.select(order), moved, _TOLERANCE), "crystals do not see each other")
    narrow = predictor.predict(mixed, coverage=0.5)
    wide = predictor.predict(mixed, coverage=0.9)
    _insist(
        bool((wide.high - wide.low >= narrow.high - narrow.low - 1e-9).all()),
        "an interval of more coverage is no narrower",
    )


def check_generator(generator: Generator, *, n_steps: int = 3) -> None:
    """Check counts, types, constraints, streaming and determinism of a generator.

    Args:
        generator: Ready to sample.
        n_steps: Steps a crystal, for generators that take steps; few are enough here.

    Raises:
        ContractError: Naming the first clause that is broken.

    Example:
        >>> from matmill.generate.baselines import RandomGenerator
        >>> check_generator(RandomGenerator())
    """
    _insist(isinstance(generator, Generator), "it has name, card, hash, check and sample")
    _insist(bool(generator.hash), "it can be told from other weights by a hash")
    for key in ("max_atoms", "elements", "conditions"):
        _insist(key in generator.card, f"its card has '{key}'")

    def sample(seed: int = 0, **wishes: Any) -> CrystalBatch:  # noqa: ANN401
        request = GenerationRequest(n_steps=n_steps, **wishes)
        return generator.sample(request, torch.Generator().manual_seed(seed))

    _insist(len(sample(n=0)) == 0, "none can be asked for")
    first = sample(n=7)
    _insist(len(first) == 7, "it delivers as many as were asked for")
    _insist(first.hashes == sample(n=7).hashes, "a seed gives the same crystals")
    _insist(first.hashes != sample(n=7, seed=1).hashes, "another seed gives other crystals")
    _insist(len(set(first.ids)) == 7, "every crystal has an id of its own")
    z, f = first.atomic_numbers, first.frac_coords
    known = set(generator.card["elements"])
    _insist(set(z.tolist()) <= known, "elements are real and on the card")
    _insist(bool(((f >= 0) & (f < 1)).all()), "sites are wrapped into the cell")
    _insist(bool(torch.isfinite(first.lattice).all()), "cells are finite")
    _insist(bool((first.volume > 0).all()), "cells have a volume")
    _insist(int(first.n_atoms.max()) <= generator.card["max_atoms"], "cells are not too large")
    _insist(first.lattice.dtype == torch.float64, "geometry is float64")

    ranged = sample(n=5, n_atoms=(2, 3))
    _insist(set(ranged.n_atoms.tolist()) <= {2, 3}, "the number of atoms is kept")
    oxides = sample(n=5, elements=("Ti", "O"))
    _insist(set(oxides.atomic_numbers.tolist()) <= {22, 8}, "elements are a hard limit")
    rutile = sample(n=4, formula={"Ti": 1, "O": 2}, n_atoms=(3, 6))
    _insist(set(rutile.formula) == {"TiO2"}, "a formula is kept exactly")
    free = sample(n=5, exclude=("O",))
    _insist(8 not in free.atomic_numbers.tolist(), "excluded elements do not occur")

    seen: list[str] = []
    generator.sample(
        GenerationRequest(n=5, n_steps=n_steps),
        torch.Generator().manual_seed(0),
        lambda batch: seen.extend(batch.hashes),
    )
    _insist(sorted(seen) == sorted(sample(n=5).hashes), "every crystal is streamed once")
    try:
        generator.check(GenerationRequest(n=1, elements=("Og",)))
    except InputError:
        return
    _insist(False, "an element that it does not know is refused")


def _check_prediction(prediction: Prediction, column: str, n: int, name: str) -> None:
    _insist(prediction.column == column, f"the prediction names its column ({name})")
    for field in ("mean", "std", "low", "high"):
        values: Tensor = getattr(prediction, field)
        _insist(values.shape == (n,), f"{field} has shape ({n},), not {values.shape} ({name})")
        _insist(values.dtype == torch.float64, f"{field} is float64 ({name})")
        _insist(not bool(values.isnan().any()), f"{field} is a number ({name})")
    _insist(prediction.in_domain.shape == (n,), f"in_domain has shape ({n},) ({name})")
    _insist(prediction.in_domain.dtype == torch.bool, f"in_domain is bool ({name})")
    _insist(bool((prediction.std >= 0).all()), f"std is not negative ({name})")
    is_ordered = (prediction.low <= prediction.mean) & (prediction.mean <= prediction.high)
    _insist(bool(is_ordered.all()), f"low <= mean <= high ({name})")


def _batches() -> dict[str, CrystalBatch]:
    salt = CrystalBatch.from_lists(
        [[[0.0, 2.82, 2.82], [2.82, 0.0, 2.82], [2.82, 2.82, 0.0]]],
        [[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]],
        [[11, 17]],
        ids=["salt"],
    )
    iron = CrystalBatch.from_lists(
        [[[-1.43, 1.43, 1.43], [1.43, -1.43, 1.43], [1.43, 1.43, -1.43]]],
        [[[0.0, 0.0, 0.0]]],
        [[26]],
        ids=["iron"],
    )
    # 200 atoms of rock salt: 5 × 5 × 4 cells of two atoms.
    steps = torch.cartesian_prod(torch.arange(5), torch.arange(5), torch.arange(4)).double()
    parts = torch.tensor([5.0, 5.0, 4.0]).double()
    sites = torch.stack([steps / parts, (steps + 0.5) / parts], dim=1).reshape(-1, 3)
    large = CrystalBatch.from_lists(
        [(salt.lattice[0] * parts[:, None]).tolist()],
        [sites.tolist()],
        [[11, 17] * 100],
        ids=["large"],
    )
    return {
        "empty batch": CrystalBatch.empty(),
        "one atom": iron,
        "200 atoms": large,
        "mixed cells": concatenate([salt, large, iron]),
    }


def _is_same(a: Prediction, b: Prediction, tolerance: float) -> bool:
    pairs = [(getattr(a, f), getattr(b, f)) for f in ("mean", "std", "low", "high")]
    near = [
        torch.equal(x, y) if tolerance == 0.0 else torch.allclose(x, y, tolerance, tolerance)
        for x, y in pairs
    ]
    return all(near) and torch.equal(a.in_domain, b.in_domain)


def _insist(is_kept: bool, clause: str) -> None:
    if not is_kept:
        raise ContractError(f"The contract is broken where it says: {clause}.")
