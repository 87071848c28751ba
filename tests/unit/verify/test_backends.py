"""Potentials by name: SevenNet against its own calculator, plug-ins, and clear refusals."""

import pickle
import sys
import types
import warnings

import pytest
import torch
from crystals_for_tests import perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import to_atoms
from matmill.errors import DataError, InputError, MissingExtraError, UnknownNameError
from matmill.registry import potentials
from matmill.verify.backends import load_potential, potential_maker
from matmill.verify.potentials import (
    MP2020_CORRECTED,
    MP_RAW,
    OTHER,
    SCHEMES,
    Potential,
    load_chgnet,
    scheme_of,
)
from matmill.verify.relax import RelaxSettings, relax

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def sevennet() -> Potential:
    pytest.importorskip("sevenn", reason="needs the extra sevenn")
    return load_potential("sevennet")


def test_sevennet_says_what_its_own_calculator_says(sevennet):
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator("7net-0", device="cpu")
    rng = torch.Generator().manual_seed(0)
    batch = perturbed(prototypes(), step=0.08, strain=0.03, rng=rng)
    mine = sevennet.compute(batch)
    for i in range(len(batch)):
        atoms = to_atoms(batch, i)
        atoms.calc = calculator
        rows = batch.atoms_of(i)
        energy = atoms.get_potential_energy()
        assert abs(float(mine.energy_ev[i]) - energy) / len(atoms) < 1e-5
        force = torch.as_tensor(atoms.get_forces()).double()
        torch.testing.assert_close(mine.forces_ev_per_a[rows], force, atol=1e-5, rtol=1e-5)
        stress = torch.as_tensor(atoms.get_stress(voigt=False)).double()
        torch.testing.assert_close(mine.stress_ev_per_a3[i], stress, atol=1e-5, rtol=1e-5)


def test_sevennet_takes_lonely_atoms_strange_elements_and_nothing(sevennet):
    assert sevennet.compute(CrystalBatch.empty()).energy_ev.shape == (0,)
    alone = CrystalBatch.from_lists([[[9, 0, 0], [0, 9, 0], [0, 0, 9]]], [[[0, 0, 0]]], [[18]])
    output = sevennet.compute(alone)
    assert float(output.forces_ev_per_a.abs().max()) < 1e-6
    cu = prototypes().select([3])
    both = sevennet.compute(concatenate([alone, cu]))
    torch.testing.assert_close(both.energy_ev[0], output.energy_ev[0], atol=1e-5, rtol=0)
    strange = CrystalBatch.from_lists([[[4, 0, 0], [0, 4, 0], [0, 0, 4]]], [[[0, 0, 0]]], [[96]])
    mixed = sevennet.compute(concatenate([strange, cu]))
    assert torch.isnan(mixed.energy_ev).tolist() == [True, False]


def test_sevennet_relaxes(sevennet):
    rng = torch.Generator().manual_seed(1)
    batch = perturbed(prototypes().select([3, 4]), step=0.05, strain=0.02, rng=rng)
    result = relax(batch, sevennet, RelaxSettings(fmax=0.05))
    assert bool(result.converged.all())


def test_energies_say_which_corrections_they_carry(sevennet):
    assert scheme_of(load_chgnet()) == MP2020_CORRECTED
    assert scheme_of(sevennet) == MP_RAW
    assert scheme_of(object()) == OTHER
    assert set(SCHEMES) == {MP2020_CORRECTED, MP_RAW, OTHER}
    assert isinstance(sevennet, Potential)
    assert len({sevennet.hash, load_chgnet().hash, ""}) == 3


@pytest.mark.parametrize(
    ("name", "package"),
    [("mace", "mace-torch"), ("mattersim", "mattersim"), ("orb", "orb-models")],
)
def test_an_absent_package_is_named_with_its_command(name, package, monkeypatch):
    for module in [*sys.modules, "mace", "mattersim", "orb_models"]:
        if module.partition(".")[0] in {"mace", "mattersim", "orb_models"}:
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"pip install {package}"):
        load_potential(name)


def test_absent_sevennet_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "sevenn", None)
    monkeypatch.setitem(sys.modules, "sevenn.util", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'matmill\[sevenn\]'"):
        load_potential("sevennet")


@pytest.fixture
def fake_mace(monkeypatch):
    """A package that looks like MACE and computes Lennard-Jones; records what it was asked."""
    from ase.calculators.lj import LennardJones

    asked = []

    def mace_mp(model, device, default_dtype):
        asked.append((model, device, default_dtype))
        return LennardJones(sigma=2.3, epsilon=0.1, rc=6.0)

    package, calculators = types.ModuleType("mace"), types.ModuleType("mace.calculators")
    calculators.mace_mp = mace_mp
    monkeypatch.setitem(sys.modules, "mace", package)
    monkeypatch.setitem(sys.modules, "mace.calculators", calculators)
    return asked


def test_a_plug_in_is_wrapped_as_its_package_is_called(fake_mace, tmp_path):
    potential = load_potential("mace")
    assert fake_mace == [("medium", "cpu", "float64")]
    assert (potential.scheme, potential.name) == (MP_RAW, "mace-mp-0-medium")
    output = potential.compute(prototypes().select([3]))
    assert bool(torch.isfinite(output.stress_ev_per_a3).all())
    own = tmp_path / "mine.pt"
    torch.save({"weight": torch.ones(3)}, own)
    other = load_potential("mace", own)
    assert fake_mace[1][0] == str(own)
    assert other.scheme == OTHER  # nobody knows what they were trained on
    assert other.hash != potential.hash


@pytest.mark.usefixtures("fake_mace")
def test_weights_that_cannot_be_had_are_said_so(monkeypatch):
    def offline(**_options):
        raise RuntimeError("Model download failed")

    monkeypatch.setattr(sys.modules["mace.calculators"], "mace_mp", offline)
    with pytest.raises(DataError, match=r"weights of mace-mp-0-medium .*Model download failed"):
        load_potential("mace")


class Evil:
    ran = False

    def __reduce__(self):
        return setattr, (Evil, "ran", True)


@pytest.mark.usefixtures("fake_mace")
def test_weights_never_run_anything(tmp_path):
    file = tmp_path / "evil.pt"
    torch.save({"model": Evil()}, file)
    for name in ("mace", "sevennet"):
        with pytest.raises(DataError, match="holds more than numbers"):
            load_potential(name, file)
    assert not Evil.ran
    (tmp_path / "noise.pt").write_bytes(b"no weights")
    with pytest.raises(DataError, match="no weights file"):
        load_potential("mace", tmp_path / "noise.pt")
    with pytest.raises(DataError, match="cannot be read"):
        load_potential("mace", tmp_path / "absent.pt")


def test_anything_importable_is_a_potential(monkeypatch):
    from ase.calculators.lj import LennardJones

    module = types.ModuleType("own_potentials")
    module.ready = LennardJones(sigma=2.3, epsilon=0.1, rc=6.0)
    module.make = lambda: LennardJones(sigma=2.3, epsilon=0.1, rc=6.0)
    module.ours = load_chgnet
    module.number = 3
    module.broken = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, "own_potentials", module)
    cu = prototypes().select([3])
    energies = [
        load_potential(f"own_potentials:{n}").compute(cu).energy_ev for n in ("ready", "make")
    ]
    torch.testing.assert_close(*energies)
    assert load_potential("own_potentials:ours").name == "chgnet-0.3.0"
    assert scheme_of(load_potential("own_potentials:make")) == OTHER
    for name, words in [
        ("own_potentials:number", "is no potential"),
        ("own_potentials:broken", "ZeroDivisionError"),
        ("own_potentials:absent", "leads nowhere"),
        ("no_such_module:x", "leads nowhere"),
    ]:
        with pytest.raises(InputError, match=words):
            load_potential(name)


def test_a_crystal_that_a_calculator_refuses_is_nan(monkeypatch):
    from ase.calculators.emt import EMT

    module = types.ModuleType("own_potentials")
    module.emt = EMT
    monkeypatch.setitem(sys.modules, "own_potentials", module)
    potential = load_potential("own_potentials:emt")
    output = potential.compute(prototypes().select([0, 3]))  # NaCl is beyond it, Cu is not
    assert torch.isnan(output.energy_ev).tolist() == [True, False]


def test_unknown_names_and_needless_weights_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'chgnet'"):
        load_potential("chgnett")
    with pytest.raises(UnknownNameError):
        potential_maker("chgnett")
    with pytest.raises(InputError, match="takes no file of weights"):
        load_potential("chgnet", tmp_path / "x.pt")
    assert pickle.loads(pickle.dumps(potential_maker("chgnet")))().name == "chgnet-0.3.0"
    assert {"chgnet", "mace", "mattersim", "orb", "sevennet"} <= set(potentials.names())


@pytest.mark.usefixtures("sevennet")
def test_sevennet_loads_without_a_word(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_potential("sevennet")
    assert capfd.readouterr().out == ""
