"""The prediction tasks that `matmill benchmark predict` knows, and how their tables are found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from matmill.data.compositions import Table, open_compositions
from matmill.data.opening import open_rows
from matmill.data.rows import require_target
from matmill.errors import InputError, UnknownNameError
from matmill.progress import OnEvent, ignore

Reads = Literal["structure", "composition"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One property of one published table.

    Attributes:
        name: What users type.
        column: Target, with its unit.
        files: Names that the table may have, without suffix; the first that is there is read.
        reads: Whether rows carry structures or compositions only.
        unit: Unit of the error, for people; empty for pure numbers and classes.
        n_published: Rows of the published table.
        has_official_folds: The five folds of matbench apply when the table is complete.
        is_classification: The target is 0 or 1.
        published: Key of the published scores (`published.SCORES`); empty when there are none.
        note: What a reader must know before comparing.
    """

    name: str
    column: str
    files: tuple[str, ...]
    reads: Reads
    unit: str
    n_published: int
    has_official_folds: bool = False
    is_classification: bool = False
    published: str = ""
    note: str = ""


def _matbench(name: str, column: str, reads: Reads, unit: str, rows: int, **more: object) -> Task:
    files = more.pop("files", (f"matbench_{name}",))
    return Task(
        name=name,
        column=column,
        files=files,  # pyright: ignore[reportArgumentType]
        reads=reads,
        unit=unit,
        n_published=rows,
        has_official_folds=True,
        published=name,
        **more,  # pyright: ignore[reportArgumentType]
    )


_NO_CELLS = "compositions only: the published models also saw the structures"
_ALL = (
    _matbench("jdft2d", "exfoliation_energy_mev_atom", "structure", "meV/atom", 636),
    _matbench("phonons", "last_phdos_peak_cm1", "structure", "1/cm", 1265),
    _matbench(
        "dielectric",
        "refractive_index",
        "composition",
        "",
        4764,
        files=("matbench_dielectric_composition", "matbench_dielectric"),
        note=_NO_CELLS,
    ),
    _matbench(
        "log_gvrh",
        "log10_g_vrh_gpa",
        "composition",
        "log10 GPa",
        10987,
        files=("matbench_elastic_composition", "matbench_log_gvrh"),
        note=_NO_CELLS,
    ),
    _matbench(
        "log_kvrh",
        "log10_k_vrh_gpa",
        "composition",
        "log10 GPa",
        10987,
        files=("matbench_elastic_composition", "matbench_log_kvrh"),
        note=_NO_CELLS,
    ),
    _matbench("expt_gap", "expt_gap_ev", "composition", "eV", 4604),
    _matbench("expt_is_metal", "is_metal", "composition", "", 4921, is_classification=True),
    _matbench("glass", "gfa", "composition", "", 5680, is_classification=True),
    _matbench("steels", "yield_strength_mpa", "composition", "MPa", 312),
    _matbench(
        "perovskites",
        "matbench_e_form_ev_cell",
        "structure",
        "eV/cell",
        18928,
        files=("perovskites_castelli_perov5", "matbench_perovskites"),
        note="only the rows whose matbench value is certain",
    ),
    Task(
        name="poly_total",
        column="poly_total",
        files=("dielectric_petousis_mp",),
        reads="structure",
        unit="",
        n_published=1056,
    ),
    Task(
        name="petousis_n",
        column="refractive_index",
        files=("dielectric_petousis_mp",),
        reads="structure",
        unit="",
        n_published=1056,
    ),
    Task(
        name="naccarato_n",
        column="refractive_index",
        files=("refractive_index_naccarato2019",),
        reads="structure",
        unit="",
        n_published=4040,
        note="3,688 crystals of another calculation, own folds: not the rows of matbench",
    ),
    Task(
        name="elastic_k",
        column="k_vrh_gpa",
        files=("elastic_tensor_mp2015",),
        reads="structure",
        unit="GPa",
        n_published=1181,
    ),
    Task(
        name="elastic_g",
        column="g_vrh_gpa",
        files=("elastic_tensor_mp2015",),
        reads="structure",
        unit="GPa",
        n_published=1181,
    ),
    Task(
        name="exfoliation_bulk",
        column="exfoliation_energy_mev_atom",
        files=("jarvis_dft3d_exfoliation",),
        reads="structure",
        unit="meV/atom",
        n_published=812,
    ),
    Task(
        name="piezoelectric",
        column="eij_max_c_m2",
        files=("piezoelectric_mp",),
        reads="structure",
        unit="C/m2",
        n_published=941,
    ),
    Task(
        name="hardness",
        column="hardness_hv",
        files=("vickers_hardness_zhang2021",),
        reads="composition",
        unit="HV",
        n_published=1062,
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def find_task(name: str) -> Task:
    """Return a task by name; ``matbench_jdft2d`` means ``jdft2d``.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    plain = name.removeprefix("matbench_")
    if plain not in TASKS:
        raise UnknownNameError("prediction task", name, sorted(TASKS))
    return TASKS[plain]


def own_task(path: Path, target: str) -> Task:
    """Return the task of a table of the user's own."""
    return Task(
        name=path.stem, column=target, files=(path.stem,), reads="structure", unit="", n_published=0
    )


def open_task(
    task: Task, folder: Path | None, *, file: Path | None = None, on_event: OnEvent = ignore
) -> Table:
    """Return the labelled rows of a task, those without a label left out.

    Args:
        task: Which.
        folder: Where the tables lie, as Parquet or CSV; None downloads the published one.
        file: The table itself, for tasks of the user's own.
        on_event: Told about progress.

    Raises:
        InputError: If no file of the task is in the folder.
        DataError: If the table lacks the target.
    """
    if file is None and folder is None:
        return _downloaded(task, on_event)
    path = file or _file_of(task, folder or Path())
    if task.reads == "composition":
        return open_compositions(path, target=task.column)
    return open_rows(path, target=task.column, on_event=on_event)


def tested_on_official_folds(task: Task, table: Table) -> bool:
    """Return whether matbench's own folds apply: they need every row, in the published order."""
    return task.has_official_folds and len(table) == task.n_published


def in_published_order(task: Task, table: Table) -> Table:
    """Return the rows in the order of the published table, when their ids tell it."""
    numbers = [name.rpartition("-")[2] for name in table.ids]
    if not (task.has_official_folds and all(number.isdigit() for number in numbers)):
        return table
    return table.select(torch.tensor([int(number) for number in numbers]).argsort(stable=True))


def _downloaded(task: Task, on_event: OnEvent) -> Table:
    from matmill.data.catalogue import find_source
    from matmill.data.sources import get

    try:
        source = find_source(task.files[-1])
    except UnknownNameError:
        raise InputError(
            f"Task '{task.name}' cannot be downloaded. Give the folder of its table "
            f"{task.files[0]}.parquet with --data."
        ) from None
    return require_target(get(source, on_event=on_event), source.target)


def _file_of(task: Task, folder: Path) -> Path:
    for name in task.files:
        for suffix in (".parquet", ".csv"):
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    raise InputError(f"There is no {task.files[0]}.parquet or .csv in {folder}.")
