"""Tests that notebooks hold the outputs of their code, state their running time, and run anywhere."""

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from tests.support.manual import docs_module
from tests.support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOME_MACHINE = re.compile(r"(?<![\w.~-])(/(home|root|tmp|work|Users|usr|mnt|opt|var|data)\b|[A-Z]:\\)")
PRIVATE = re.compile(r"(?<!\w)_[a-z]\w*\(|\._[a-z]|import _")

TEXTS = ("text/plain", "text/html", "text/markdown")
MAKE = "run `make notebooks`, which stores new outputs"

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
def test_stored_outputs_were_made_by_the_code_as_it_stands(path):
    book = nbformat.read(path, as_version=4)
    assert book.metadata["code_sha256"] == docs_module("run_notebooks").code_sha256(book), MAKE
    assert all(cell.execution_count for cell in cells(path, "code"))


@every_notebook
def test_stored_outputs_hold_pictures_and_no_error_or_place_of_some_machine(path):
    outputs = docs_module("run_notebooks").outputs(nbformat.read(path, as_version=4))
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    for output in outputs:
        text = output.get("text", "") + "".join(output.get("data", {}).get(kind, "") for kind in TEXTS)
        assert not SOME_MACHINE.search(text) and "Traceback" not in text, text


@every_notebook
def test_stored_pictures_are_small(path):
    outputs = docs_module("run_notebooks").outputs(nbformat.read(path, as_version=4))
    assert max(len(output.get("data", {}).get("image/png", "")) for output in outputs) < 200_000
    assert path.stat().st_size < 800_000


def test_a_picture_is_stored_with_few_colors_and_looks_the_same():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None], (64, 3)).reshape(64, 256, 3)
    encoded = io.BytesIO()
    Image.fromarray(ramp).save(encoded, "PNG")
    small = docs_module("run_notebooks").shrink(base64.b64encode(encoded.getvalue()).decode())
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB"))
    assert abs(shown.astype(int) - ramp).max() <= 2
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) <= 128


def test_a_notebook_gets_the_outputs_of_its_code(tmp_path):
    cell = nbformat.v4.new_code_cell("import tempfile\nprint(tempfile.mkdtemp() + '/run')\nprint(6 * 7)")
    path = tmp_path / "book.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    docs_module("run_notebooks").main([str(path)])
    book = nbformat.read(path, as_version=4)
    assert [output.text for output in book.cells[0].outputs] == ["run\n42\n"]
    assert book.metadata["code_sha256"] == docs_module("run_notebooks").code_sha256(book)
    assert "language_info" not in book.metadata and "execution" not in book.cells[0].metadata


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
    book = nbformat.read(path, as_version=4)
    make = docs_module("run_notebooks")
    stored = [kinds(cell) for cell in book.cells if cell.cell_type == "code"]
    make.run(book, tmp_path)
    assert [kinds(cell) for cell in book.cells if cell.cell_type == "code"] == stored, MAKE
    assert not [output.text for output in make.outputs(book) if "Warning" in output.get("text", "")]
    assert not list(tmp_path.iterdir())


def kinds(cell) -> list[str]:
    """The types of what a cell shows; what it prints depends on the speed of the machine."""
    return sorted({kind for output in cell.outputs for kind in output.get("data", {"text/plain": ""})})
