"""Options that every command shares, so that they are spelt and explained the same everywhere.

A command takes, as far as they make sense for it::

    def predict(files: ..., seed: Seed = 0, out: Out = None, json: Json = False,
                quiet: Quiet = False, device: Device = "auto") -> None:
"""

from pathlib import Path
from typing import Annotated

import typer

from matmill.errors import InputError

Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same settings: same result.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where to write; the suffix decides the format.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, for programs.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; results and errors only.")]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda; auto takes a GPU when there is one.")
]
PotentialName = Annotated[
    str,
    typer.Option(
        "--potential",
        help="chgnet, sevennet, mace, mattersim, orb, an installed plug-in, or module:attribute of "
        "any potential, ASE calculator or function that makes one.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="Weights for --potential instead of those that it comes with."),
]
NumberOfWorkers = Annotated[
    int,
    typer.Option(
        "--workers", min=0, help="Processes, one thread each; 0: one a core where that is worth it."
    ),
]
Structures = Annotated[
    Path | None, typer.Option("--structures", help="Folder with one structure file per CSV row.")
]
IdColumn = Annotated[
    str | None, typer.Option("--id-column", help="Column of the CSV with the ids.")
]
Elements = Annotated[
    str | None,
    typer.Option("--elements", help="Allowed elements, e.g. Ga,N,O; a crystal may use a subset."),
]
Exclude = Annotated[
    str | None, typer.Option("--exclude", help="Elements that must not occur, e.g. Pb,Cd.")
]
AtomRange = Annotated[
    str | None, typer.Option("--n-atoms", help="Atoms in the cell: a number or a range like 4-16.")
]
WorkersText = Annotated[
    str,
    typer.Option(
        "--workers",
        help="Processes for expensive tasks, 0 is one a core; or a Ray cluster: ray, ray:4 (here), "
        "ray://host:10001, ray:auto.",
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Database of the run, e.g. postgresql://user@host/name?schema=gap2; an SQLite file "
        "in the folder by default.",
    ),
]
BudgetTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="Hard limit, e.g. relaxations=200, proposals=5000, wall_hours=2, cpu_hours=8, "
        "evaluations.dft=20, money=500. May be repeated.",
    ),
]


def pick_device(name: str) -> str:
    """Return a torch device name for what the user typed.

    Raises:
        InputError: If the device is unknown or absent.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InputError(
                "--device cuda was asked for, but torch sees no GPU. Use --device cpu."
            )
        return name
    raise InputError(f"--device '{name}' is unknown. Use auto, cpu or cuda.")


def parse_atom_range(text: str | None) -> tuple[int, int] | None:
    """Return (fewest, most) atoms from ``"8"`` or ``"4-16"``; None stays None.

    Raises:
        InputError: If the text is neither, or the range is empty.
    """
    if text is None:
        return None
    low, _, high = text.strip().partition("-")
    try:
        fewest, most = int(low), int(high or low)
    except ValueError:
        raise InputError(f"--n-atoms '{text}' is not a number or a range like 4-16.") from None
    if not 1 <= fewest <= most:
        raise InputError(f"--n-atoms '{text}' is empty: give 1 <= fewest <= most, e.g. 4-16.")
    return fewest, most
