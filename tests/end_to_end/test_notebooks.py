"""Tests that notebooks hold no outputs, state their running time, and run from top to bottom anywhere."""

import re
from pathlib import Path

import nbformat
import pytest

from tests.support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOME_MACHINE = re.compile(r"(?<![\w.~-])(/(home|root|tmp|work|Users|usr|mnt|opt|var|data)\b|[A-Z]:\\)")
PRIVATE = re.compile(r"(?<!\w)_[a-z]\w*\(|\._[a-z]|import _")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_there_is_a_notebook_for_each_lesson():
    assert [path.stem for path in NOTEBOOKS] == [
        "1-look-at-your-data",
        "2-look-into-the-model",
        "3-planning-uncertainty",
        "4-your-robot-in-30-lines",
    ]


@every_notebook
def test_notebook_is_kept_without_outputs(path):
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(path, "code"))


@every_notebook
def test_notebook_begins_with_its_title_and_its_running_time(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    title, _, time, *_ = first.source.splitlines()
    assert title.startswith(f"# {path.stem[0]} · ")
    assert re.fullmatch(r"\*Running time: .+ on two CPU cores\.\*", time)


@every_notebook
def test_notebook_names_no_place_of_some_machine(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not SOME_MACHINE.search(cell.source), cell.source


@every_notebook
def test_notebook_uses_only_what_is_public(path):
    for cell in cells(path, "code"):
        assert not PRIVATE.search(cell.source), cell.source


@every_notebook
def test_every_figure_is_followed_by_what_to_see_in_it(path):
    """A cell that draws is never the last one, and no other cell that draws comes before the next words."""
    drew = False
    for cell in nbformat.read(path, as_version=4).cells:
        draws = cell.cell_type == "code" and re.search(
            r"^(Chart\(|to_matplotlib\(|show_frames\(|Image\(|\w+\.plot\(\)|figure)", cell.source, re.M
        )
        assert not (draws and drew), cell.source
        drew = bool(draws) or (drew and cell.cell_type == "code")
    assert not drew


@pytest.mark.slow
@every_notebook
def test_notebook_runs_in_a_fresh_folder(path, tmp_path):
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=600, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert not [output.text for output in outputs if "Warning" in output.get("text", "")]
    assert not list(tmp_path.iterdir())
