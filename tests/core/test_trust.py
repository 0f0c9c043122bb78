import json
import logging
import os
import pickle
import py_compile
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from o2o.core import plugins, trust
from o2o.core.errors import UntrustedError, UsageError
from o2o.core.paths import state_folder
from o2o.core.trust import Saved


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    """An empty record, and a process that was given no file; the path of the record."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_given", set())
    return tmp_path / "state" / "o2o" / trust.RECORD


@pytest.fixture
def arm(tmp_path) -> Path:
    path = tmp_path / "arm.py"
    path.write_text("WHO = 'mine'\n")
    return path


def test_a_saved_name_runs_a_file_only_after_the_user_named_it_with_this_content(arm):
    line = (
        f"robot '{arm}' was named by a checkpoint or a run, not by you, and is not run: "
        f"you have not used it on this machine; read it, then permit it with --trust {arm}"
    )
    with pytest.raises(UntrustedError) as caught:
        plugins.load("robots", Saved(arm))
    assert str(caught.value) == line and caught.value.exit_code == 2
    assert plugins.load("robots", str(arm)) is plugins.load("robots", Saved(arm))
    content = arm.read_text()
    arm.write_text("1 / 0\n")
    with pytest.raises(UntrustedError, match="it has changed since you last used it"):
        plugins.load("robots", Saved(arm))
    arm.write_text(content)
    assert plugins.load("robots", Saved(arm)).WHO == "mine"


def test_the_same_content_elsewhere_is_another_file(arm, tmp_path):
    plugins.load("robots", str(arm))
    copy = tmp_path / "copy.py"
    copy.write_bytes(arm.read_bytes())
    with pytest.raises(UntrustedError, match="you have not used it"):
        plugins.load("robots", Saved(copy))


def test_every_text_keeps_its_mark_and_what_is_cut_from_it(tmp_path):
    @dataclass(frozen=True)
    class Inner:
        names: tuple[str, ...] = ("a",)

    @dataclass(frozen=True)
    class Outer:
        name: str = "b"
        number: int = 3
        inner: Inner = field(default_factory=Inner)

    marked = trust.mark({"list": ["c", 1, None], "config": Outer()})
    texts = [*marked["list"][:1], marked["config"].name, *marked["config"].inner.names]
    assert [type(text) for text in texts] == [Saved] * 3 and texts == ["c", "b", "a"]
    assert marked["config"] == Outer() and marked["list"][1:] == [1, None]
    assert type(pickle.loads(pickle.dumps(texts[0]))) is Saved
    assert type(trust.derive(texts[0], "d")) is Saved and type(trust.derive("typed", "d")) is str


def test_the_record_is_the_users_alone(arm, state):
    trust.give(arm)
    trust.give(arm)
    entries = [json.loads(line) for line in state.read_text().splitlines()]
    assert [entry["path"] for entry in entries] == [str(arm)]
    assert state.stat().st_mode & 0o777 == 0o600 and state.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("fault", ["writable by others", "of another user", "a FIFO", "damaged"])
def test_a_record_that_others_could_have_written_permits_nothing(arm, state, caplog, fault):
    plugins.load("robots", str(arm))
    if fault == "writable by others":
        state.chmod(0o620)
    elif fault == "of another user":
        if os.geteuid():
            pytest.skip("needs root")
        os.chown(state, 12345, -1)
    elif fault == "a FIFO":
        state.unlink()
        os.mkfifo(state)
    else:
        state.write_text("{\n[]\n" + json.dumps({"path": str(arm)}) + "\n\x00\n")
    with pytest.raises(UntrustedError):
        plugins.load("robots", Saved(arm))
    assert fault not in ("writable by others", "of another user") or f"{state} is ignored" in caplog.text


def test_a_damaged_line_spoils_no_other(arm, state):
    state.parent.mkdir(parents=True)
    state.write_text("{half a line\n")
    state.chmod(0o600)
    trust.give(arm)
    assert plugins.load("robots", Saved(arm)).WHO == "mine"


def test_a_record_that_cannot_be_written_is_a_warning(arm, tmp_path, caplog):
    (tmp_path / "state").write_text("a file")
    with caplog.at_level(logging.WARNING, "o2o"):
        assert plugins.load("robots", str(arm)).WHO == "mine"
    assert "cannot record" in caplog.text and "will ask for --trust" in caplog.text
    trust.give(arm)  # lasts for this process
    assert plugins.load("robots", Saved(arm)).WHO == "mine"


def test_the_record_lies_where_the_standard_says(monkeypatch, tmp_path):
    assert state_folder() == tmp_path / "state" / "o2o"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert state_folder() == tmp_path / ".local" / "state" / "o2o"


def test_a_file_can_permit_no_other(arm):
    trust.give(Saved(arm))
    with pytest.raises(UntrustedError):
        plugins.load("robots", Saved(arm))
    with pytest.raises(UsageError, match=r"--trust nowhere\.py: there is no such file"):
        trust.give("nowhere.py")


def test_a_given_file_is_found_where_a_run_from_elsewhere_names_it(arm, tmp_path):
    there = Saved("/home/stranger/arm.py")
    with pytest.raises(UsageError, match=r"file '/home/stranger/arm\.py' not found; .*--trust PATH/arm\.py"):
        plugins.load("robots", there)
    trust.give(arm)
    assert plugins.load("robots", there).WHO == "mine"
    with pytest.raises(UsageError, match="not found"):
        plugins.load("robots", "/home/stranger/arm.py")  # what the user types is meant
    used = tmp_path / "used" / "arm.py"
    used.parent.mkdir()
    used.write_text("WHO = 'used'\n")
    plugins.load("robots", str(used))
    assert plugins.load("robots", Saved(used)).WHO == "used"


def test_a_compiled_copy_beside_the_file_does_not_run_in_its_place(arm, tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text("1 / 0\n")
    cache = tmp_path / "__pycache__" / f"arm.{sys.implementation.cache_tag}.pyc"
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH  # Python takes it whatever the source holds
    py_compile.compile(str(evil), cfile=str(cache), invalidation_mode=unchecked)
    assert plugins.load("robots", str(arm)).WHO == "mine"


def test_a_path_in_an_error_is_one_line_that_a_shell_reads(tmp_path):
    for name, shown in {"my arm.py": "'{}'", "a\nb.py": "{!r}"}.items():
        path = tmp_path / name
        path.write_text("")
        with pytest.raises(UntrustedError) as caught:
            plugins.load("robots", Saved(path))
        assert "\n" not in str(caught.value) and str(caught.value).endswith(shown.format(str(path)))


def test_a_token_is_sent_to_no_address_that_the_user_has_not_used_it_with(tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    for recipient in (Saved("stranger:80"), Saved("arm:8765")):
        with pytest.raises(UntrustedError, match=f"is not sent what {token} holds"):
            trust.check_recipient(token, recipient)
    trust.check_recipient(token, "arm:8765")  # typed
    trust.check_recipient(token, Saved("arm:8765"))
    with pytest.raises(UntrustedError, match="'stranger:80' was named by a checkpoint"):
        trust.check_recipient(token, Saved("stranger:80"))
    trust.check_recipient(tmp_path / "missing", Saved("stranger:80"))  # nothing is sent


def test_a_module_may_be_imported_where_its_file_may_run(tmp_path, monkeypatch):
    package = tmp_path / "trust_envs"
    package.mkdir()
    (package / "__init__.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "trust_envs.arms:Env-v0"
    for wanted in (f"permit it with --trust {package / '__init__.py'}", "you have not used it"):
        with pytest.raises(UntrustedError, match=wanted):
            trust.check_module("trust_envs.arms", Saved(name), "environment")
    trust.check_module("trust_envs.arms", name, "environment")
    trust.check_module("trust_envs.arms", Saved(name), "environment")
    (tmp_path / "trust_space" / "inner").mkdir(parents=True)
    for module in ("sys", "trust_space.inner"):  # built in; a folder without `__init__.py`
        with pytest.raises(UntrustedError, match=r"name it yourself with --robot\.id"):
            trust.check_module(module, Saved(f"{module}:Env-v0"), "environment")
        trust.check_module(module, f"{module}:Env-v0", "environment")
    for module in ("nowhere_at_all", "..relative", ""):  # the import says that there is none
        trust.check_module(module, Saved(f"{module}:Env-v0"), "environment")
