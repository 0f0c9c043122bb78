"""The house keeps its floors: a module imports only from its own floor or lower ones."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "o2o"

FLOORS = {
    0: [
        "errors",
        "spec",
        "catalog",
        "log",
        "checkpoint",
        "config",
        "seeding",
        "interval",
        "home",
        "memory",
        "events",
        "stages",
    ],  # words
    1: [
        "batch",
        "nn",
        "model",
        "robot",
        "recipe",
        "transform",
        "film",
        "layers",
        "scalar",
        "distribution",
        "categorical",
        "autoencoder",
        "optimiser",
        "imagine",
        "valuation",
        "deadline",
        "machine",
        "capture",
        *["handover", "gate"],
        *["marks", "chart", "chart_still", "chart_live", "page", "displacement"],
        *["limits", "selection", "safety", "still", "watchdog", "clock", "hardware", "newest", "weights"],
        *["operator", "controls", "gamepad"],
        *["wire", "introduction", "faults", "wallclock", "station"],
    ],  # contracts and bricks
    2: ["models/*", "data/*", "critic", "behaviour", "imagination", "planner", "balance"],  # parts
    3: ["agent", "presets"],  # the hub
    4: [  # loops
        *["pretrain", "finetune", "evaluate", "inspect/*", "bench/*", "compare/*", "demo"],
        *["check", "audit/*", "curate/*"],
        *[
            "run",
            "offline",
            "rollout",
            "listing",
            "open_loop",
            "curves",
            "moment",
            "stream",
            "stream_page",
            *["learner", "beside", "beside_child", "session", "asked"],
            "doubt",
            "serve",
        ],  # what they and the door share
    ],
    5: ["cli", "commands", "__main__"],  # the door
}
PARTS = 2
KNOWS_ITSELF = "data"  # the one part that is several files


def floor_of(module: str) -> int | None:
    """Floor of `o2o.data.replay` and the like."""
    name = module.removeprefix("o2o.").replace(".", "/")
    for floor, entries in FLOORS.items():
        if name in entries or f"{name}/*" in entries or f"{name.split('/')[0]}/*" in entries:
            return floor
    return None


def part_of(module: str) -> str:
    """`o2o.data.replay` -> `data`; a model is a part of its own: `models.tdmpc`."""
    name = module.removeprefix("o2o.")
    return KNOWS_ITSELF if name.split(".")[0] == KNOWS_ITSELF else name


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
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
    return {name for name in found if name == "o2o" or name.startswith("o2o.")}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def plugin_files() -> list[Path]:
    return sorted(path for kind in ("robots", "datasets") for path in (ROOT / kind).rglob("*.py"))


def test_every_file_has_a_floor():
    lost = [module_of(path) for path in files() if floor_of(module_of(path)) is None]
    assert not lost, f"{lost} are on no floor; give them one in FLOORS"


def test_no_module_imports_from_a_higher_floor():
    wrong = []
    for path in files():
        floor = floor_of(module_of(path))
        for name in imports(path) - {"o2o"}:
            above = floor_of(name)
            if above is not None and floor is not None and above > floor:
                wrong.append(f"{module_of(path)} (floor {floor}) imports {name} (floor {above})")
    assert not wrong, "\n".join(wrong)


def test_parts_are_blind_to_each_other():
    wrong = []
    for path in files():
        module = module_of(path)
        if floor_of(module) != PARTS:
            continue
        for name in imports(path):
            if floor_of(name) == PARTS and part_of(name) != part_of(module):
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


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


def test_plugins_do_not_import_the_loops():
    for path in plugin_files():
        for name in imports(path):
            assert (floor_of(name) or 0) <= PARTS, f"{path.relative_to(ROOT)} imports {name}"


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


def test_the_floor_table_reads_modules_and_parts():
    assert floor_of("o2o.data.replay") == floor_of("o2o.data") == floor_of("o2o.models.tdmpc") == 2
    assert floor_of("o2o.errors") == 0 and floor_of("o2o.nowhere") is None
    assert part_of("o2o.data.replay") == part_of("o2o.data.source") == "data"
    assert part_of("o2o.models.tdmpc") != part_of("o2o.models.rssm")
