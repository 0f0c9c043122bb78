"""Tests the LeRobot plug-in as it is installed, against a fake of LeRobot and a true policy server."""

import importlib
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hatchling.build import build_wheel

from o2o.core.transform import ObsTransform, Transform
from o2o.training.loaded_policy import LoadedPolicy
from tests.support import fake_lerobot
from tests.support.fake_lerobot import FeatureType, PolicyFeature, make_policy, make_pre_post_processors
from tests.support.paths import ROOT
from tests.support.preset_agents import tiny
from tests.support.served import until, write_token
from tests.support.served_policy import IMAGE, make_agent, served_policy

FOLDER = ROOT / "o2o" / "deployment" / "lerobot_policy_o2o"
FEATURES = {
    "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
    "action": PolicyFeature(FeatureType.ACTION, (2,)),
}
STATES = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder that the plug-in's wheel is unpacked to."""
    out, before = tmp_path_factory.mktemp("wheel"), os.getcwd()
    os.chdir(FOLDER)
    try:
        name = build_wheel(str(out))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(out / name) as archive:
        archive.extractall(out / "site")
    return out / "site"


@pytest.fixture
def plugin(wheel, monkeypatch):
    """The plug-in, imported beside a fake of LeRobot."""
    monkeypatch.syspath_prepend(str(wheel))
    with fake_lerobot.installed():
        yield importlib.import_module("lerobot_policy_o2o")


def config_of(server, **options):
    kind = fake_lerobot.PreTrainedConfig.get_choice_class("o2o")
    return kind(address=f"127.0.0.1:{server.port}", timeout_s=10.0, **options)


def test_lerobot_makes_it_by_its_name_and_acts_as_the_server_does(plugin):
    """`--policy.type=o2o`: config, policy and pipelines are found by the names of modules and classes."""
    alone = LoadedPolicy(make_agent(config=tiny("dreamerv2")), False, None)
    with served_policy(make_agent(config=tiny("dreamerv2"))) as server:
        config = config_of(server, seed=3)
        policy = make_policy(config, FEATURES)
        before, after = make_pre_post_processors(config)
        assert isinstance(policy, plugin.O2OPolicy) and policy.name == config.type == "o2o"
        assert next(policy.parameters()).device == torch.device("cpu")
        for seed in (3, 4):
            policy.reset()
            alone.reset(seed)
            for state in STATES:
                action = after(policy.select_action(before({"observation.state": torch.tensor(state)})))
                assert action.dtype == torch.float32 and action.shape == (1, 2)
                np.testing.assert_allclose(action[0], alone.act({"state": state}, 0.0), atol=1e-7)


def test_a_folder_for_policy_path_holds_where_the_server_is(plugin, tmp_path):
    """`--policy.path=FOLDER`, which `lerobot-rollout` requires."""
    command = importlib.import_module("lerobot_policy_o2o.__main__")
    with served_policy(make_agent(IMAGE)) as server:
        words = ["--address", f"127.0.0.1:{server.port}", "--timeout-s", "10", "--seed", "3"]
        assert (
            command.main([*words, "--observations", "camera=observation.images.top", "--out", str(tmp_path)])
            == 0
        )
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {
            "config.json",
            "model.safetensors",
            "policy_preprocessor.json",
            "policy_postprocessor.json",
        }
        config = fake_lerobot.PreTrainedConfig.from_pretrained(tmp_path)
        assert config.input_features == {
            "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, 6, 8)),
            "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
        }
        assert config.output_features == {"action": PolicyFeature(FeatureType.ACTION, (1,))}
        policy = plugin.O2OPolicy.from_pretrained(
            pretrained_name_or_path=tmp_path, config=config, revision=None
        )
        batch = {"observation.images.top": torch.zeros(1, 3, 6, 8), "observation.state": torch.zeros(1, 2)}
        alone = LoadedPolicy(make_agent(IMAGE), False, None)
        alone.reset(3)
        wanted = alone.act({"camera": np.zeros((6, 8, 3), np.uint8), "state": np.zeros(2)}, 0.0)
        np.testing.assert_allclose(policy.select_action(batch)[0], wanted, atol=1e-6)


def test_what_hinders_the_folder_is_one_line(plugin, tmp_path, capsys):
    command, out = importlib.import_module("lerobot_policy_o2o.__main__"), str(tmp_path)
    assert command.main(["--address", "127.0.0.1:1", "--out", out]) == 4
    assert command.main(["--address", "127.0.0.1:1", "--token-file", "/nowhere", "--out", out]) == 2
    assert command.main(["--address", "127.0.0.1:1", "--observations", "state", "--out", out]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("lerobot_policy_o2o: error: ") for line in errors)
    assert "no policy server at" in errors[0] and "/nowhere" in errors[1]
    assert errors[2].endswith("--observations is state, wanted NAME=KEY")


def test_rows_of_a_batch_are_robots_with_a_belief_each(plugin):
    with served_policy(make_agent(config=tiny("dreamerv2"))) as server:
        policy = make_policy(config_of(server), FEATURES)
        policy.reset()
        both = np.stack([STATES, -STATES], 1)
        actions = np.array(
            [policy.select_action({"observation.state": torch.tensor(x)}).numpy() for x in both]
        )
        assert len(server._clients) == 2
        for row in (0, 1):
            alone = LoadedPolicy(make_agent(config=tiny("dreamerv2")), False, None)
            alone.reset(row)
            wanted = [alone.act({"state": x[row]}, 0.0) for x in both]
            np.testing.assert_allclose(actions[:, row], wanted, atol=1e-6)


def test_an_episode_begins_though_the_server_has_closed_the_connection(plugin):
    with served_policy() as server:
        policy = make_policy(config_of(server), FEATURES)
        batch = {"observation.state": torch.zeros(1, 2)}
        policy.select_action(batch)
        for connection in list(server._clients):  # as where it was idle
            connection.close()
        assert until(lambda: not server._clients)
        with pytest.raises(Exception, match="lost the connection"):
            policy.select_action(batch)  # in mid-episode the belief would be lost
        policy.reset()
        assert policy.select_action(batch).shape == (1, 2)


@pytest.mark.parametrize(("shape", "layout"), [((40, 48, 3), "HWC"), ((3, 40, 48), "CHW"), ((40, 48), "HW")])
def test_images_arrive_as_they_were_recorded(plugin, shape, layout):
    fields = {"wrist": ObsTransform(shape, image=True, size=64, layout=layout)}
    transform = Transform(fields, (-1.0,), (1.0,))
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3 if len(shape) == 3 else 1)).astype(np.uint8)
    recorded = {"HWC": image, "CHW": image.transpose(2, 0, 1), "HW": image[..., 0]}[layout]
    alone = LoadedPolicy(make_agent(transform), False, None)
    alone.reset()
    wanted = alone.act({"wrist": recorded}, 0.0)
    tensor = torch.tensor(image.transpose(2, 0, 1))[None]
    with served_policy(make_agent(transform)) as server:
        policy = make_policy(config_of(server), {})
        for value in (tensor, tensor.float() / 255):
            policy.reset()
            action = policy.select_action({"observation.images.wrist": value})
            np.testing.assert_allclose(action[0], wanted, atol=1e-6)


def test_stacks_of_frames_are_refused_in_one_line(plugin):
    transform = Transform(
        {"wrist": ObsTransform((2, 40, 48, 3), image=True, size=64, layout="FHWC")}, (-1.0,), (1.0,)
    )
    with served_policy(make_agent(transform)) as server:
        policy = make_policy(config_of(server), {})
        with pytest.raises(ValueError, match="wants images with the axes FHWC; LeRobot gives C, h, w"):
            policy.select_action({"observation.images.wrist": torch.zeros(1, 3, 40, 48)})


def test_an_observation_of_another_name_is_named_by_a_flag(plugin):
    features = {"observation.joints": FEATURES["observation.state"], "action": FEATURES["action"]}
    with served_policy() as server:
        with pytest.raises(ValueError) as error:
            make_policy(config_of(server), features)
        assert str(error.value) == (
            "the policy wants the observation 'state', looked for as state, observation.state, "
            "observation.images.state; have observation.joints; --policy.observations='{state: KEY}' names "
            "another"
        )
        policy = make_policy(config_of(server, observations={"state": "observation.joints"}), features)
        assert policy.select_action({"observation.joints": torch.zeros(1, 2)}).shape == (1, 2)


def test_what_does_not_fit_is_one_line(plugin):
    with served_policy() as server:
        wrong = FEATURES | {"action": PolicyFeature(FeatureType.ACTION, (6,))}
        with pytest.raises(ValueError, match=r"^the robot's action is \(6,\), the policy's is \(2,\)$"):
            make_policy(config_of(server), wrong)
        policy = make_policy(config_of(server), FEATURES)
        error = sys.modules["lerobot_policy_o2o.policy_client"].PolicyError
        with pytest.raises(error, match=r"'state' is \(3,\), wanted \(2,\) float32"):
            policy.select_action({"observation.state": torch.zeros(1, 3)})
    with pytest.raises(error, match="lost the connection"):
        policy.select_action({"observation.state": torch.zeros(1, 2)})
    with pytest.raises(error, match=r"no policy server at 127\.0\.0\.1"):
        make_policy(config_of(server), FEATURES)


def test_the_token_is_read_from_a_file(plugin, tmp_path):
    path = write_token(tmp_path / "token")
    with served_policy(token_file=path) as server:
        assert make_policy(config_of(server, token_file=str(path)), FEATURES)
        with pytest.raises(ValueError, match="cannot read the token in /nowhere"):
            make_policy(config_of(server, token_file="/nowhere"), FEATURES)


def test_it_is_not_trained_by_lerobot(plugin):
    with served_policy() as server:
        policy = make_policy(config_of(server), FEATURES)
        for call in (lambda: policy.forward({}), policy.get_optim_params, policy.config.get_optimizer_preset):
            with pytest.raises(NotImplementedError, match="trained by `o2o pretrain`"):
                call()
        chunk = policy.predict_action_chunk({"observation.state": torch.zeros(1, 2)})
        assert chunk.shape == (1, 1, 2)


def test_the_client_needs_nothing_of_o2o(wheel):
    """The file in the wheel is the one of o2o, and imports neither o2o nor torch."""
    copied = wheel / "lerobot_policy_o2o" / "policy_client.py"
    assert copied.read_bytes() == (ROOT / "o2o" / "deployment" / "policy_client.py").read_bytes()
    code = "import sys, policy_client; print({'o2o', 'torch', 'gymnasium'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=copied.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
