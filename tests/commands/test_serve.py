"""Tests that `o2o robot serve` refuses unsafe files in one line, before it builds the robot."""

import os

import pytest


@pytest.mark.parametrize("kind", ["a FIFO", "a folder", "a device"])
def test_a_control_file_that_is_no_regular_file_is_refused(tmp_path, fails, kind):
    os.mkfifo(tmp_path / "fifo")
    path = {"a FIFO": tmp_path / "fifo", "a folder": tmp_path, "a device": "/dev/null"}[kind]
    line = fails(2, "robot", "serve", "--control-file", path)
    assert f"--control-file {path} cannot be used: it is {kind}, wanted a regular file" in line


def test_a_control_file_that_others_can_write_is_refused(tmp_path, fails):
    path = tmp_path / "control"
    path.touch()
    path.chmod(0o666)
    line = fails(2, "robot", "serve", "--control-file", path)
    assert f"they can write {path} (its mode is 666): chmod go-w {path}" in line


def test_a_certificate_without_its_key_is_refused(tmp_path, fails):
    assert "--cert needs --key too" in fails(2, "robot", "serve", "--cert", tmp_path / "cert.pem")
    assert "--key needs --cert too" in fails(2, "robot", "serve", "--key", tmp_path / "cert.key")
