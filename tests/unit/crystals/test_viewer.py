"""The report's 3D viewer, run by node where it is installed."""

import json
import shutil
import subprocess
from importlib.resources import files

import pytest

SOURCE = files("matmill.crystals").joinpath("viewer.js").read_text(encoding="utf-8")
STYLES = {"Na": {"color": [1, 2, 3], "radius": 1.66}, "Cl": {"color": [9, 9, 9], "radius": 1.02}}
SALT = {
    "lattice": [[5.64, 0, 0], [0, 5.64, 0], [0, 0, 5.64]],
    "symbols": ["Na"] * 4 + ["Cl"] * 4,
    "frac": [
        *([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]),
        *([0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]),
    ],
}
CANVAS = """
const calls = {};
const pen = new Proxy({}, { get: (_, name) => (...a) => {
  calls[name] = (calls[name] || 0) + 1;
  return { addColorStop() {} };
}, set: () => true });
const canvas = { clientWidth: 400, clientHeight: 400, getContext: () => pen,
                 listeners: {}, addEventListener(n, f) { this.listeners[n] = f; },
                 setPointerCapture() {} };
const window = { addEventListener() {}, devicePixelRatio: 1 };
"""


def run(code):
    script = f"{CANVAS}{SOURCE}\nconst S = {json.dumps(STYLES)}, C = {json.dumps(SALT)};\n{code}"
    done = subprocess.run(
        ["node", "-e", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def test_it_is_short_and_loads_nothing():
    assert len(SOURCE.splitlines()) < 200
    assert not any(word in SOURCE for word in ("import ", "fetch(", "http", "eval("))


@needs_node
def test_rock_salt_has_its_atoms_and_bonds():
    found = run(
        "const atoms = atomsToShow(C); const bonds = findBonds(atoms, S);"
        "console.log(JSON.stringify({atoms: atoms.length, bonds: bonds.length,"
        " mixed: bonds.every(([i, j]) => atoms[i].symbol !== atoms[j].symbol)}))"
    )
    # A face-centred block shows 14 + 13 atoms; each of its 54 nearest pairs is Na-Cl.
    assert found == {"atoms": 27, "bonds": 54, "mixed": True}


@needs_node
def test_everything_is_drawn_and_dragging_turns_it():
    found = run(
        "const view = new CrystalView(canvas, C, S); const first = {...calls};"
        "const before = view.project([1, 2, 3]);"
        "canvas.listeners.pointerdown({clientX: 0, clientY: 0, pointerId: 1});"
        "canvas.listeners.pointermove({clientX: 60, clientY: 20});"
        "const after = view.project([1, 2, 3]);"
        "const r = view.rotation; const len = Math.hypot(...r[0]);"
        "console.log(JSON.stringify({first, moved: before.x !== after.x, len,"
        " inside: view.corners.every((c) => { const p = view.project(c);"
        " return p.x > 0 && p.x < 400 && p.y > 0 && p.y < 400; })}))"
    )
    assert found["first"]["fill"] == 27
    assert found["first"]["stroke"] == 12 + 2 * 54
    assert found["moved"]
    assert found["inside"]
    assert found["len"] == pytest.approx(1.0)
