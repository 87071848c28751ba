// A small crystal viewer on a 2D canvas: balls, sticks and the unit cell, painted back to front.
// Drag to rotate, wheel or pinch to zoom, double click to reset. No dependencies.
"use strict";

const BOND_SLACK = 1.2; // bond when closer than this times the sum of covalent radii
const EDGES = [[0, 1], [0, 2], [0, 4], [1, 3], [1, 5], [2, 3], [2, 6], [3, 7], [4, 5], [4, 6], [5, 7], [6, 7]];

function toCartesian(lattice, f) {
  return [0, 1, 2].map((k) => f[0] * lattice[0][k] + f[1] * lattice[1][k] + f[2] * lattice[2][k]);
}

// All atoms of the cell, with copies of those on faces, edges and corners.
function atomsToShow(crystal) {
  const atoms = [];
  crystal.frac.forEach((frac, i) => {
    let copies = [[]];
    for (const x of frac) {
      const values = x < 0.02 ? [x, x + 1] : x > 0.98 ? [x - 1, x] : [x];
      copies = copies.flatMap((start) => values.map((v) => [...start, v]));
    }
    for (const f of copies) atoms.push({ symbol: crystal.symbols[i], at: toCartesian(crystal.lattice, f) });
  });
  return atoms;
}

function findBonds(atoms, styles) {
  const bonds = [];
  for (let i = 0; i < atoms.length; i++) {
    for (let j = 0; j < i; j++) {
      const a = atoms[i], b = atoms[j];
      const d = Math.hypot(a.at[0] - b.at[0], a.at[1] - b.at[1], a.at[2] - b.at[2]);
      const limit = BOND_SLACK * (styles[a.symbol].radius + styles[b.symbol].radius);
      if (d > 0.4 && d < limit) bonds.push([i, j]);
    }
  }
  return bonds;
}

function multiply(a, b) {
  return a.map((row) => [0, 1, 2].map((k) => row[0] * b[0][k] + row[1] * b[1][k] + row[2] * b[2][k]));
}

function turn(x, y) {
  const [cx, sx, cy, sy] = [Math.cos(x), Math.sin(x), Math.cos(y), Math.sin(y)];
  return multiply([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]);
}

function shade(color, amount) {
  const mix = (c) => Math.round(amount > 0 ? c + (255 - c) * amount : c * (1 + amount));
  return `rgb(${color.map(mix).join(",")})`;
}

class CrystalView {
  constructor(canvas, crystal, styles) {
    this.canvas = canvas;
    this.styles = styles;
    this.reset();
    this.show(crystal);
    canvas.addEventListener("pointerdown", (e) => {
      this.last = [e.clientX, e.clientY];
      canvas.setPointerCapture(e.pointerId);
    });
    canvas.addEventListener("pointermove", (e) => this.drag(e));
    canvas.addEventListener("pointerup", () => { this.last = null; });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      this.zoom = Math.min(6, Math.max(0.3, this.zoom * Math.exp(-e.deltaY / 500)));
      this.draw();
    }, { passive: false });
    canvas.addEventListener("dblclick", () => { this.reset(); this.draw(); });
    window.addEventListener("resize", () => this.draw());
  }

  reset() {
    const [c, s] = [Math.cos(0.35), Math.sin(0.35)];
    this.rotation = multiply(turn(-1.25, 0), [[c, s, 0], [-s, c, 0], [0, 0, 1]]); // c axis up
    this.zoom = 1;
    this.last = null;
  }

  show(crystal) {
    const corners = [];
    for (const x of [0, 1]) for (const y of [0, 1]) for (const z of [0, 1]) {
      corners.push(toCartesian(crystal.lattice, [x, y, z]));
    }
    const middle = toCartesian(crystal.lattice, [0.5, 0.5, 0.5]);
    const centred = (p) => p.map((v, k) => v - middle[k]);
    this.atoms = atomsToShow(crystal).map((a) => ({ ...a, at: centred(a.at) }));
    this.bonds = findBonds(this.atoms, this.styles);
    this.corners = corners.map(centred);
    this.size = Math.max(...this.corners.map((p) => Math.hypot(...p))) + 1;
    this.draw();
  }

  drag(e) {
    if (!this.last) return;
    const [dx, dy] = [e.clientX - this.last[0], e.clientY - this.last[1]];
    this.last = [e.clientX, e.clientY];
    this.rotation = multiply(turn(dy / 120, dx / 120), this.rotation);
    this.draw();
  }

  project(p) {
    const r = this.rotation.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2]);
    const scale = (this.zoom * 0.46 * Math.min(this.width, this.height)) / this.size;
    const depth = 1 / (1 - r[2] / (6 * this.size)); // mild perspective
    return { x: this.width / 2 + r[0] * scale * depth, y: this.height / 2 - r[1] * scale * depth,
             z: r[2], scale: scale * depth };
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth || 300;
    this.height = this.canvas.clientHeight || 300;
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const parts = [];
    const at = this.atoms.map((a) => this.project(a.at));
    const cell = this.corners.map((c) => this.project(c));
    for (const [i, j] of EDGES) {
      parts.push({ z: (cell[i].z + cell[j].z) / 2 - 0.1, paint: () => this.line(pen, cell[i], cell[j], "#888", 1) });
    }
    for (const [i, j] of this.bonds) {
      const middle = { x: (at[i].x + at[j].x) / 2, y: (at[i].y + at[j].y) / 2 };
      const width = 0.13 * (at[i].scale + at[j].scale);
      for (const k of [i, j]) {
        const color = shade(this.styles[this.atoms[k].symbol].color, -0.2);
        parts.push({ z: (3 * at[k].z + at[i].z + at[j].z) / 5 - 0.05,
                     paint: () => this.line(pen, at[k], middle, color, width) });
      }
    }
    at.forEach((p, i) => parts.push({ z: p.z, paint: () => this.ball(pen, p, this.atoms[i].symbol) }));
    parts.sort((a, b) => a.z - b.z);
    for (const part of parts) part.paint();
  }

  line(pen, a, b, color, width) {
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.lineCap = "round";
    pen.beginPath();
    pen.moveTo(a.x, a.y);
    pen.lineTo(b.x, b.y);
    pen.stroke();
  }

  ball(pen, p, symbol) {
    const style = this.styles[symbol];
    const r = (0.25 + 0.25 * style.radius) * p.scale;
    const light = pen.createRadialGradient(p.x - r / 3, p.y - r / 3, r / 10, p.x, p.y, r);
    light.addColorStop(0, shade(style.color, 0.7));
    light.addColorStop(0.5, shade(style.color, 0));
    light.addColorStop(1, shade(style.color, -0.45));
    pen.fillStyle = light;
    pen.beginPath();
    pen.arc(p.x, p.y, r, 0, 2 * Math.PI);
    pen.fill();
  }
}
