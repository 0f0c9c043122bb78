from o2o.commands.bench.worker import Worker


class Adder:
    def add(self, left: int, right: int) -> int:
        return left + right


def test_a_worker_answers_and_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    for name in ("multiprocessing", "runpy", "pickle"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with Worker("adder", Adder) as worker:
        worker.receive()
        assert worker.ask("add", 1, 2) == 3
    assert not (tmp_path / "ran").exists()
