"""Potentials by name: what ships, other people's packages, and any function of one's own.

Each of the packages here is optional. Where one is absent, the error has the command that installs
it; where its weights cannot be had, the error says so.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from matmill.errors import DataError, InputError, MatmillError, MissingExtraError, UnknownNameError
from matmill.registry import potentials
from matmill.verify.ase_potential import AsePotential
from matmill.verify.potentials import MP_RAW, OTHER, Potential
from matmill.verify.weights import check_weights

DEFAULT = "chgnet"


def load_potential(name: str = DEFAULT, weights: str | Path | None = None) -> Potential:
    """Return a potential by its name, or by where it is.

    Args:
        name: A name of `registry.potentials`, or ``"module:attribute"`` of an importable potential
            or ASE calculator, or of a function that returns one.
        weights: A file of weights instead of those that the potential comes with.

    Raises:
        UnknownNameError: If no potential has the name.
        MissingExtraError: If its package is not installed.
        DataError: If its weights cannot be loaded.
        InputError: If ``module:attribute`` leads to no potential.
    """
    if ":" in name:
        return _from_module(name, weights)
    make = potentials.load(name)
    if weights is None:
        return make()
    try:
        return make(weights=weights)
    except TypeError as error:
        if "weights" not in str(error):
            raise
        raise InputError(f"The potential '{name}' takes no file of weights.") from error


def potential_maker(name: str, weights: str | Path | None = None) -> Callable[[], Potential]:
    """Return a picklable function that loads a potential, once it is known that the name exists.

    Raises:
        UnknownNameError: If no potential has the name.
    """
    if ":" not in name and name not in potentials.names():
        raise UnknownNameError("potential", name, potentials.names())
    return partial(load_potential, name, weights)


def load_mace(weights: str | Path | None = None) -> AsePotential:
    """Return MACE-MP-0 (medium), which the package ``mace-torch`` downloads when first used."""
    mace = _need("mace.calculators", "MACE", "mace-torch")
    model = "medium" if weights is None else _checked(weights)
    return _wrap(
        partial(mace.mace_mp, model=model, device="cpu", default_dtype="float64"),
        name="mace-mp-0-medium",
        package="mace-torch",
        weights=weights,
    )


def load_mattersim(weights: str | Path | None = None) -> AsePotential:
    """Return MatterSim 1.0 (1M), which the package ``mattersim`` downloads when first used."""
    mattersim = _need("mattersim.forcefield", "MatterSim", "mattersim")
    file = None if weights is None else _checked(weights)
    return _wrap(
        partial(mattersim.MatterSimCalculator, load_path=file, device="cpu"),
        name="mattersim-1.0.0-1m",
        package="mattersim",
        weights=weights,
    )


def load_orb(weights: str | Path | None = None) -> AsePotential:
    """Return Orb v3 (conservative, MPtrj and Alexandria), which ``orb-models`` downloads."""
    pretrained = _need("orb_models.forcefield.pretrained", "Orb", "orb-models")
    calculator = _need("orb_models.forcefield.calculator", "Orb", "orb-models")
    options: dict[str, Any] = {"device": "cpu", "precision": "float32-highest"}
    if weights is not None:
        options["weights_path"] = _checked(weights)

    def make() -> Any:  # noqa: ANN401 - an ASE calculator
        network = pretrained.orb_v3_conservative_inf_mpa(**options)
        return calculator.ORBCalculator(network, device="cpu")

    return _wrap(make, name="orb-v3-conservative-inf-mpa", package="orb-models", weights=weights)


def _need(module: str, title: str, package: str) -> Any:  # noqa: ANN401 - a module
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{title} needs the package {package}: pip install {package} "
            f"({type(error).__name__}: {error})."
        ) from error


def _checked(weights: str | Path) -> str:
    check_weights(Path(weights))
    return str(weights)


def _wrap(
    make: Callable[[], Any], *, name: str, package: str, weights: str | Path | None
) -> AsePotential:
    """Return the calculator as a potential, or say why its weights could not be loaded."""
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        version = "unknown"
    if weights is None:
        # The weights are where the package keeps them: its version stands for them.
        content = f"{name} {package} {version}".encode()
    else:
        content, name = Path(weights).read_bytes(), f"{name}-{Path(weights).stem}"
    try:
        return AsePotential(
            make,
            name=name,
            hash=hashlib.sha256(content).hexdigest()[:16],
            scheme=MP_RAW if weights is None else OTHER,
        )
    except MatmillError:
        raise
    except Exception as error:  # a download, a cache, a file: whatever the package stumbles over
        raise DataError(
            f"The weights of {name} could not be loaded by {package} {version}: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error


def _from_module(target: str, weights: str | Path | None) -> Potential:
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"--potential {target} leads nowhere: {error}. The module must be importable: "
            "installed, or in a folder that PYTHONPATH names."
        ) from error
    try:
        made = _called(found, weights)
    except MatmillError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(
            f"{target} could not be made: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    if hasattr(made, "compute"):
        return made
    if hasattr(made, "get_potential_energy"):
        settings = f"{target} {getattr(made, 'parameters', '')}".encode()
        return AsePotential(
            lambda: made, name=target, hash=hashlib.sha256(settings).hexdigest()[:16]
        )
    raise InputError(f"{target} is no potential and no ASE calculator: {type(made).__name__}.")


def _called(found: Any, weights: str | Path | None) -> Any:  # noqa: ANN401 - the user's own
    is_ready = hasattr(found, "get_potential_energy") or hasattr(found, "compute")
    if is_ready and not isinstance(found, type):
        return found
    if not callable(found):
        return found
    return found() if weights is None else found(weights=weights)
