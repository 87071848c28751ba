"""A store as matmill 0.1 made it (schema 1): its statements, kept here as a fact."""

import json
import math
import struct

TABLES = """
CREATE TABLE run (key VARCHAR NOT NULL, value TEXT, PRIMARY KEY (key));
CREATE TABLE structure (
    id VARCHAR(32) NOT NULL, formula VARCHAR NOT NULL, n_atoms INTEGER NOT NULL,
    lattice BLOB NOT NULL, frac_coords BLOB NOT NULL, atomic_numbers BLOB NOT NULL,
    PRIMARY KEY (id));
CREATE TABLE event (
    id INTEGER NOT NULL, time FLOAT NOT NULL, stage VARCHAR NOT NULL, message TEXT NOT NULL,
    "values" TEXT NOT NULL, PRIMARY KEY (id));
CREATE TABLE candidate (
    number INTEGER NOT NULL, structure VARCHAR(32) NOT NULL, round INTEGER NOT NULL,
    task INTEGER NOT NULL, origin VARCHAR NOT NULL, PRIMARY KEY (number),
    FOREIGN KEY(structure) REFERENCES structure (id));
CREATE INDEX ix_candidate_round ON candidate (round);
CREATE TABLE evaluation (
    structure VARCHAR(32) NOT NULL, evaluator VARCHAR NOT NULL, status VARCHAR NOT NULL,
    result VARCHAR(32), "values" TEXT NOT NULL, seconds FLOAT NOT NULL,
    PRIMARY KEY (structure, evaluator), FOREIGN KEY(structure) REFERENCES structure (id),
    FOREIGN KEY(result) REFERENCES structure (id));
CREATE TABLE verdict (
    candidate INTEGER NOT NULL, stage VARCHAR NOT NULL, fate VARCHAR NOT NULL,
    reason TEXT NOT NULL, structure VARCHAR(32), "values" TEXT NOT NULL,
    PRIMARY KEY (candidate, stage), FOREIGN KEY(candidate) REFERENCES candidate (number),
    FOREIGN KEY(structure) REFERENCES structure (id));
"""
LATTICE = [4.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, math.pi]
COORDS = [0.0, 0.0, 0.0, 0.5, 0.5, 0.1]
NUMBERS = [31, 7]


def statements(dialect: str) -> list[str]:
    text = TABLES
    if dialect == "postgresql":
        text = text.replace("BLOB", "BYTEA").replace("id INTEGER NOT NULL", "id SERIAL NOT NULL")
    return [one.strip() for one in text.split(";") if one.strip()]


def rows(structure_id: str) -> dict[str, dict[str, object]]:
    """One crystal that was proposed, screened and relaxed, and one line of the log."""
    values = {"smallest_distance_a": 2.5, "nothing": None}
    found = {"candidate": 0, "fate": "passed", "reason": "", "structure": None}
    return {
        "run": {"key": "schema_version", "value": "1"},
        "structure": {
            "id": structure_id,
            "formula": "GaN",
            "n_atoms": 2,
            "lattice": struct.pack("<9d", *LATTICE),
            "frac_coords": struct.pack("<6d", *COORDS),
            "atomic_numbers": struct.pack("<2q", *NUMBERS),
        },
        "event": {
            "time": 1.5,
            "stage": "relax",
            "message": "finished",
            "values": json.dumps({"seconds": 2.5}),
        },
        "candidate": {
            "number": 0,
            "structure": structure_id,
            "round": 0,
            "task": 0,
            "origin": "flow",
        },
        "verdict": {**found, "stage": "screen", "values": json.dumps(values)},
        "evaluation": {
            "structure": structure_id,
            "evaluator": "relax-1",
            "status": "passed",
            "result": structure_id,
            "values": json.dumps({"energy_ev": -3.25}),
            "seconds": 0.5,
        },
    }
