"""Points the hub's package at a fake hub, in this process and in those that a test starts."""

from collections.abc import Iterator

import pytest

from tests.support.fake_hub import FakeHub, environment, serve


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[FakeHub]:
    """A fake hub at which `o2o push` and `o2o pull` are signed in."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    with serve() as server:
        for name, value in environment(server, tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
        yield server
        close_session()
