"""Tests that the options of every bundled world model are known without its network."""

from o2o.core import plugins
from o2o.nn.model_config import BUNDLED


def test_every_bundled_model_has_its_options_in_the_table():
    models = plugins.PACKAGE / "models"
    names = {path.stem for path in models.glob("*.py") if not path.stem.startswith("_")}
    assert BUNDLED.keys() == names
    for name, kind in BUNDLED.items():
        assert plugins.load("models", name).Config is kind
