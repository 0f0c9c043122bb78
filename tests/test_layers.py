"""The packages keep their layers: each imports only from lower ones, and no two import each other."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "o2o"

FLOORS = {
    "commands": 8,
    "deployment": 7,
    "training": 6,
    "inspect": 5,
    "agent": 4,
    "fleet": 4,
    "data": 3,
    "models": 3,
    "hardware": 2,
    "nn": 2,
    "core": 1,
}
TOP = {"o2o", "o2o.__main__", "o2o.cli"}  # `o2o/` itself, above every package
PLUGINS_MAY_IMPORT = 3  # robots and datasets use nothing above this floor


def package_of(module: str) -> str:
    """`o2o.data.formats.rlds` -> `data`; empty for a file of `o2o/` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else ""


def folder_of(module: str) -> str:
    """The folder that a module lies in: `o2o.data.formats.rlds` -> `o2o.data.formats`."""
    return module if is_package(module) else module.rpartition(".")[0]


def is_package(module: str) -> bool:
    return (ROOT.joinpath(*module.split(".")) / "__init__.py").is_file()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> frozenset[str]:
    """Every `o2o...` module that a file imports, wherever in the file."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                found.add(f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base)
    return frozenset(name for name in found if name == "o2o" or name.startswith("o2o."))


@cache
def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def plugin_files() -> list[Path]:
    return sorted(path for kind in ("robots", "datasets") for path in (ROOT / kind).rglob("*.py"))


def test_every_file_lies_in_one_of_the_packages():
    flat = {module_of(path) for path in files() if not package_of(module_of(path))} - TOP
    assert not {module for module in flat if is_package(module)}, "a package that has no floor"


def test_a_package_imports_only_from_lower_floors():
    wrong = []
    for path in files():
        package = package_of(module_of(path))
        for name in imports(path):
            other = package_of(name)
            if package and other and other != package and FLOORS[other] >= FLOORS[package]:
                wrong.append(
                    f"{module_of(path)} (floor {FLOORS[package]}) imports {name} (floor {FLOORS[other]})"
                )
    assert not wrong, "\n".join(wrong)


def test_no_two_folders_import_each_other():
    arrows = {}
    for path in files():
        for name in imports(path):
            arrows.setdefault((folder_of(module_of(path)), folder_of(name)), f"{module_of(path)} -> {name}")
    wrong = [
        f"{why} and {arrows[end, start]}"
        for (start, end), why in sorted(arrows.items())
        if start < end and (end, start) in arrows and "o2o" not in (start, end)
    ]
    assert not wrong, "\n".join(wrong)


def test_world_models_are_blind_to_each_other():
    for path in files():
        module = module_of(path)
        others = {name for name in imports(path) if name.startswith("o2o.models.")} - {module}
        assert package_of(module) != "models" or not others, f"{module} imports {others}"


def test_imports_have_no_cycle():
    graph = {module_of(path): imports(path) for path in files()}  # also those inside functions
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"cycle: {' -> '.join([*trail, module])}"
        if module not in done:
            for name in graph.get(module, ()):
                if name != module:
                    visit(name, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_robot_or_dataset_is_imported_by_name():
    for path in [*files(), PACKAGE / "__init__.py", *plugin_files()]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                head = name.removeprefix("o2o.").split(".")[0]
                assert head not in ("robots", "datasets"), f"{path.relative_to(ROOT)} imports {name}"


def test_plugins_import_nothing_above_data():
    for path in plugin_files():
        for name in imports(path):
            floor = FLOORS.get(package_of(name), 0)
            assert floor <= PLUGINS_MAY_IMPORT, f"{path.relative_to(ROOT)} imports {name}"


def test_robots_and_datasets_are_no_packages():
    packages = [path for path in plugin_files() if path.name == "__init__.py"]
    assert not packages, "found by path, not by import: an __init__.py would shadow other packages"


FORBIDDEN = {
    "pickle": r"\b(import|from)\s+(c?pickle|dill|cloudpickle|shelve|marshal)\b",
    "unsafe torch.load": r"weights_only\s*=\s*False|(?<![\w.])torch\.load\(",
    "unsafe numpy.load": r"allow_pickle\s*=\s*True",
    "eval": r"(?<![\w.])eval\(",
    "exec": r"(?<![\w.])exec\(",
    "unsafe yaml": r"yaml\.(unsafe_)?load\(",
    "shell": r"shell\s*=\s*True|os\.system\(",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_can_run_code_from_data(what):
    for path in [*files(), PACKAGE / "__init__.py", *plugin_files()]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not re.search(FORBIDDEN[what], line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_the_rules_read_modules_and_folders():
    assert package_of("o2o.data.load") == package_of("o2o.data") == "data" and package_of("o2o.cli") == ""
    assert folder_of("o2o.data.formats.rlds") == folder_of("o2o.data.formats") == "o2o.data.formats"
    assert folder_of("o2o.models.tdmpc") == "o2o.models" and folder_of("o2o.cli") == "o2o"
