"""Runs notebooks and stores them with their outputs; `make notebooks` calls it with their paths."""

import base64
import hashlib
import io
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

OWN_FOLDER = re.compile(rf"{re.escape(tempfile.gettempdir())}/tmp\w+/")  # that a notebook made for its files
COLORS = 128  # of a palette; charts and frames of cameras look the same, at a third of the bytes


def run(book: NotebookNode, folder: Path) -> None:
    """Runs a notebook in a folder, and gives it the outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    place = {"metadata": {"path": str(folder)}}
    options = {"timeout": 600, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    NotebookClient(book, resources=place, **options).execute()
    book.metadata.pop("language_info", None)  # the version of Python on this machine
    book.metadata["code_sha256"] = code_sha256(book)
    for output in outputs(book):
        if "text" in output:
            output.text = OWN_FOLDER.sub("", output.text)
        if "image/png" in output.get("data", {}):
            output.data = {"image/png": shrink(output.data["image/png"])}


def code_sha256(book: NotebookNode) -> str:
    """Returns the sha256 of all code, which says whether the outputs were made by it."""
    cells = [cell.source for cell in book.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()


def outputs(book: NotebookNode) -> list[NotebookNode]:
    """Returns the outputs of all cells, in order."""
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def shrink(png: str) -> str:
    """Returns a PNG image, in base64, with a palette of `COLORS`."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    small = io.BytesIO()
    image.quantize(COLORS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main(paths: list[str]) -> None:
    """Runs the notebooks at the paths, each in an empty folder, and writes them where they were."""
    for path in map(Path, paths):
        book = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            run(book, Path(folder))
        nbformat.write(book, path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
