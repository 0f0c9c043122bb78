"""Checks what of a run's metadata is published, and what is not."""

import socket

import pytest

from o2o.deployment import privacy
from o2o.deployment.privacy import clean_info, clean_text, clean_words


@pytest.fixture(autouse=True)
def _host(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "bench7.lab")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("/home/ada/data/door.hdf5", "/elsewhere/door.hdf5"),
        ("/home/ada love/door v0", "/elsewhere/door v0"),
        ("~/door.hdf5", "/elsewhere/door.hdf5"),
        ("~ada/x/door.hdf5", "/elsewhere/door.hdf5"),
        (r"C:\Users\ada\door.hdf5", "/elsewhere/door.hdf5"),
        ('{"front": "/dev/video0", "w": 640}', '{"front": "/elsewhere/video0", "w": 640}'),
        ("https://user:pass@host.org/x?token=1", "https://..."),
        ("rtsp://10.0.0.7:554/live", "rtsp://..."),
        ("ada@example.org", "USER@HOST"),
        ("192.168.1.200", "HOST"),
        ("arm.lab:8765", "HOST"),
        ("runs on bench7.lab and bench7", "runs on HOST and HOST"),
        ("hf_abcdefghijklmnop", "..."),
        ("Bearer abc.def", "..."),
        ('{"password": "a b", "n": 1}', '{"password": ..., "n": 1}'),
        ("api_key=abc", "api_key=..."),
    ],
)
def test_a_text_loses_folders_hosts_and_credentials(text, cleaned):
    assert clean_text(text) == cleaned


@pytest.mark.parametrize(
    "text",
    ["sim-lift", "AdroitHandDoor-v1", "ALE/Pong-v5", "D4RL/door/human-v2", "runs/door", "../door.hdf5",
     "2.13.0+cpu", "Linux-6.18.44-x86_64-with-glibc2.36", "my_envs:Arm-v0", "50%", "-datagen_info/*", "/"],
)  # fmt: skip
def test_other_texts_stay_as_they_are(text):
    assert clean_text(text) == (text if text != "/" else privacy.ELSEWHERE)


def test_columns_of_a_recording_are_no_folders_of_this_machine():
    obs = ["joints=/joint_states.position", "proprio/*", "cam=/home/ada/x"]
    info = clean_info({"dataset": {"dataset_options": {"obs": obs, "action": "/command.data"}}}, True)
    options = info["dataset"]["dataset_options"]
    assert options == {"obs": ["joints=/joint_states.position", "proprio/*", "cam=/elsewhere/x"],
                       "action": "/command.data"}  # fmt: skip


def test_text_options_of_a_real_robot_are_left_out_and_numbers_stay():
    options = {"address": "arm", "token_file": "t", "control_hz": 10.0, "home": [0.1, 0.2], "ids": ["a"],
               "kwargs": {"a": 1}, "fast": True}  # fmt: skip
    info = {"config": {"robot_options": options}}
    assert clean_info(info, False)["config"]["robot_options"] == {
        "control_hz": 10.0, "home": [0.1, 0.2], "fast": True
    }  # fmt: skip
    simulated = clean_info({"robot_options": {"task": "lift", "token_file": "t"}}, True)["robot_options"]
    assert simulated == {"task": "lift", "token_file": "..."}


def test_a_command_line_keeps_its_words_but_not_what_they_tell():
    words = ["finetune", "--robot", "/home/ada/arm.py", "--robot.address=10.0.0.7:80", "--robot.speed", "0.2",
             "--robot.token-file", "secret/t", "--dataset.obs", "joints=/joint_states.position",
             "--out", "runs/x", "--seed", "3"]  # fmt: skip
    assert clean_words(words, False) == [
        "finetune", "--robot", "/elsewhere/arm.py", "--robot.address=...", "--robot.speed", "0.2",
        "--robot.token-file", "...", "--dataset.obs", "joints=/joint_states.position",
        "--out", "runs/x", "--seed", "3",
    ]  # fmt: skip
    assert clean_words(["--robot.task", "lift"], True) == ["--robot.task", "lift"]


def test_the_way_from_a_run_to_its_recording_is_left_out_and_the_source_stays():
    info = {"dataset": {"from_run": "../../ada/door", "dataset": "/x/y/door"}}
    assert clean_info(info, True) == {"dataset": {"from_run": "", "dataset": "/elsewhere/door"}}
    assert info["dataset"]["from_run"] == "../../ada/door"
