"""Tests that the reference pages of the manual list what the code has, no more and no less."""

import re
from dataclasses import fields

import o2o
from o2o.core import errors
from o2o.hardware.limits import RobotLimits
from tests.support.manual import first_column, is_in_glossary
from tests.support.paths import ROOT
from tests.support.tiny_runs import finetune_config

METADATA = "docs/reference/robot-metadata.md"
CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("o2o/**/*.py")))


def test_the_metadata_page_has_every_key_that_is_read_of_a_robot():
    folders = (ROOT / "o2o/hardware", ROOT / "robots")
    code = "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py"))
    read = set(re.findall(r"""metadata(?:\.get\(|\[)["'](\w+)""", code))
    assert set(first_column(METADATA, "Robot metadata")) == read


def test_the_metadata_page_has_every_limit():
    assert set(first_column(METADATA, '`metadata["limits"]`')) == {one.name for one in fields(RobotLimits)}


def test_the_metadata_page_has_every_entry_of_the_displacement():
    code = (ROOT / "o2o/hardware/end_effector.py").read_text(encoding="utf-8")
    read = set(re.findall(r'stated\["(\w+)"\]', code))
    assert set(first_column(METADATA, '`metadata["displacement"]`')) == read


def test_every_exit_code_is_on_its_page():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {0, 130} | {kind.exit_code for kind in kinds if issubclass(kind, errors.O2OError)}
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/reference/exit-codes.md").read_text(), re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(codes)


def test_the_page_of_the_run_folder_has_every_file_of_a_run(pretrained, tmp_path):
    tuned = o2o.finetune(finetune_config(pretrained, tmp_path / "run", episodes=1, record_plans=True))
    listed = {name.partition("/")[0] for name in first_column("docs/reference/run-folder.md")}
    assert {path.name for run in (pretrained, tuned) for path in run.iterdir()} <= listed


def test_every_metric_of_the_glossary_is_in_the_code():
    """The other way, `tests/training/conftest.py` compares what is logged with the glossary."""
    for row in first_column("docs/reference/metrics.md"):
        name = row.rpartition("/")[2]
        fixed = max(re.split(r"[A-Z]+|_p\d+_ms", name), key=len) or row.partition("/")[0] + "/"
        assert re.search(rf"""["'{{/_]{re.escape(fixed)}""", CODE), row


def test_the_glossary_has_names_in_capitals_stand_for_any():
    assert is_in_glossary("loss/dynamics") and is_in_glossary("timing/plan_p99_ms")
    assert not is_in_glossary("losses") and not is_in_glossary("timing/plan_p98_ms")
