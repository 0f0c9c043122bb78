"""Lists the tasks of the suite: one line each, with the budget of one run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A dataset, on the robot that its recipe names, and the budget of one run.

    Attributes:
        dataset: recipe name, Minari id or path.
        about: what the task shows.
        flags: flags of `o2o pretrain` for all presets.
        updates: number of offline gradient steps; None: each preset's own number.
        episodes: number of online episodes.
        scenes: number of fixed scenes of an evaluation.
    """

    dataset: str
    about: str = ""
    flags: tuple[str, ...] = ()
    updates: int | None = None
    episodes: int = 50
    scenes: int = 50


SUITE = (
    Task("sim-lift", "few recordings, short episodes", ("dataset.max-episodes=40",), None, 36, 100),
    Task("sim-push", "reward and success may disagree", (), 4000, 50, 100),
    Task("door-human-sparse", "28 joints, human data, sparse success", (), 10_000, 50, 50),
    Task("hopper-medium", "long horizon, early endings", ("discount=0.99",), 10_000, 20, 20),
    Task("pointmaze", "sparse reward, stitching", ("discount=0.99",), 5000, 50, 50),
    Task("sim-lift-demos", "pixels and a success flag", ("dataset.image-size=64",), 2000, 30, 50),
)
QUICK_TASKS, QUICK_BUDGET = ("sim-lift", "sim-push"), {"updates": 1000, "episodes": 10, "scenes": 30}


def find(name: str) -> Task:
    """Returns the task of that name, or one with the default budget for any other dataset."""
    return next((task for task in SUITE if task.dataset == name), Task(name))
