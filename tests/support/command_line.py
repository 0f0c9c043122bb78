"""Flags that make `o2o pretrain` last a second."""

from tests.support.paths import POINT_ROBOT

SMALL = [
    "--critic.hidden-dim",
    "16",
    "--policy.hidden-dim",
    "16",
    "--planner.num-samples",
    "16",
    "--planner.num-policy",
    "4",
    "--planner.num-elites",
    "4",
    "--planner.iterations",
    "1",
    "--batch-size",
    "8",
    "--device",
    "cpu",
    "--updates",
    "4",
]


TDMPC = ["--model.latent-dim", "8", "--model.hidden-dim", "16", "--model.encoder-dim", "16"]


def pretrain(dataset, out, *words) -> list:
    return ["pretrain", "--dataset", dataset, "--robot", POINT_ROBOT, "--out", out, *SMALL, *TDMPC, *words]
