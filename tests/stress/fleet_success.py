"""Compares a fleet with one robot: `python -m tests.stress.fleet_success --checkpoint RUN --out NEW`.

One simulated robot learns from its episodes as `o2o finetune` does. Several robots of one learner share as
many episodes, with the same seed, and the learner is killed once (`kill -9`). Both are evaluated in the same
scenes. Printed are the success of both, how long the killed learner took to learn again, and how often the
robots began episodes with the learner and while it was away. The exit code is 1 where the fleet's success is
more than ten points lower, or the learner took more than a minute.
"""

import argparse
import contextlib
import itertools
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from o2o.core import child_process, stats
from o2o.core.checkpoint import load_meta
from o2o.data.finished_episodes import FinishedEpisodes
from o2o.training.evaluate import Score
from tests.stress.fleet_rehearsal import Server
from tests.support.served import write_token

POLL_S = 0.2
MOST_LOST, AGAIN_S = 0.10, 60.0


def start(log: Path, *words: object) -> subprocess.Popen:
    """Starts `o2o` with these words; its output goes to a file."""
    command, environment = child_process.command("o2o", *map(str, words))
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def finish(process: subprocess.Popen, log: Path) -> None:
    assert process.wait() == 0, f"it ended with exit code {process.returncode}, see {log}"


def learn_alone(plan: argparse.Namespace) -> float:
    """Fine-tunes with one robot; returns the time that it took, s."""
    begin_s, log = time.monotonic(), plan.out / "one.log"
    words = ["--checkpoint", plan.checkpoint, "--episodes", plan.episodes, "--out", plan.out / "one"]
    finish(start(log, "finetune", *words, *_common(plan)), log)
    return time.monotonic() - begin_s


def learn_together(plan: argparse.Namespace) -> tuple[float, float, float]:
    """Fine-tunes with a fleet; returns its time, when the learner was killed (Unix time), and its outage, s.

    Raises:
        AssertionError: a robot or the learner failed.
    """
    token, begin_s = write_token(plan.out / "token", secrets.token_hex(16)), time.monotonic()
    flags = ["--seed", str(plan.seed), "--episodes", str(plan.episodes)]
    server = Server(plan.checkpoint, plan.out / "fleet", token, flags)
    with contextlib.ExitStack() as stack:
        stack.callback(server.process.kill)
        robots = []
        for number in range(plan.robots):
            name = f"arm-{number}"
            words = ["--robot", "sim", "--learner", f"http://127.0.0.1:{server.port}", "--name", name]
            words += ["--learner-token-file", token, "--episodes", plan.episodes // plan.robots]
            words += ["--out", plan.out / name]
            robots.append(start(plan.out / f"{name}.log", "finetune", *words, *_common(plan)))
            stack.callback(robots[-1].kill)
        killed_s, outage_s = 0.0, float("nan")
        first, total = -1, plan.episodes // plan.robots * plan.robots  # first: updates of the next learner
        while True:
            time.sleep(POLL_S)
            server.restart_if_dead()
            for number, robot in enumerate(robots):
                assert not robot.poll(), f"arm-{number} failed, see {plan.out}"
            state = server.learner
            if not killed_s:
                if server.num_entries >= total // 3 and server.is_ready("learner", False):
                    server.kill("learner")
                    killed_s = time.time()
            elif np.isnan(outage_s) and server.is_ready("learner", False) and state:
                first = state.num_updates if first < 0 else first
                if state.num_updates > first:
                    outage_s = time.time() - killed_s
            done = state and state.num_episodes == total and not state.pending_updates
            if done and all(robot.poll() == 0 for robot in robots) and not np.isnan(outage_s):
                seconds = time.monotonic() - begin_s
                assert server.end() == 0, "the server did not end with a checkpoint"
                return seconds, killed_s, outage_s


def periods(plan: argparse.Namespace, killed_s: float, outage_s: float) -> Iterator[tuple[float, bool]]:
    """Yields the time from one episode's start to the next, s, and whether the learner was away in it."""
    for number in range(plan.robots):
        episodes = FinishedEpisodes(plan.out / f"arm-{number}" / "online")
        # of the first row: within an episode a simulator's clock is its own
        starts = [episodes.read(one).infos["time_s"][0] for one in range(episodes.num_episodes)]
        for start, end in itertools.pairwise(starts):
            yield end - start, killed_s <= end and start <= killed_s + outage_s


def evaluate(plan: argparse.Namespace, run: Path) -> Score:
    """Plays the fixed scenes with a run."""
    out, log = plan.out / f"{run.name}.json", plan.out / "evaluate.log"
    words = ["--checkpoint", run, "--robot", "sim", "--episodes", plan.scenes, "--out", out]
    finish(start(log, "evaluate", *words, "--device", "cpu", "--threads", 1), log)
    return Score.load(out)


def _common(plan: argparse.Namespace) -> list[object]:
    return ["--seed", plan.seed, "--device", "cpu", "--threads", 1]


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="run of `o2o pretrain` that both start from")
    add("--robots", type=int, default=4, help="robots of the fleet, each a process")
    add("--episodes", type=int, default=40, help="episodes of the one robot, and of the fleet in all")
    add("--scenes", type=int, default=100, help="scenes of each evaluation")
    add("--seed", type=int, default=0, help="seed of both")
    add("--out", type=Path, required=True, help="empty folder")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    plan = parse(words)
    plan.out.mkdir(parents=True, exist_ok=True)
    together_s, killed_s, outage_s = learn_together(plan)
    alone_s = learn_alone(plan)
    runs = {"before": plan.checkpoint, "one robot": plan.out / "one", "fleet": plan.out / "fleet"}
    scores = {name: evaluate(plan, run) for name, run in runs.items()}
    for name, score in scores.items():
        wins, number = int(score.successes.sum()), len(score.successes)
        low, high = stats.success_interval(wins, number)
        updates = load_meta(runs[name] / "checkpoint")["num_updates"]
        print(f"{name}: success {wins / number:.0%} [{low:.0%}, {high:.0%}], {updates} updates")
    gain, low, high = stats.paired_difference(scores["one robot"].successes, scores["fleet"].successes)
    print(f"fleet less one robot, same scenes: {gain:+.0%} [{low:+.0%}, {high:+.0%}]")
    print(f"wall time: one robot {alone_s:.0f} s, fleet {together_s:.0f} s")
    print(f"the killed learner made an update again after {outage_s:.1f} s")
    found = list(periods(plan, killed_s, outage_s))
    for name, is_away in (("with the learner", False), ("while it was away", True)):
        seconds = [period for period, away in found if away == is_away]
        if seconds:
            p50, most = np.median(seconds), max(seconds)
            print(
                f"{len(seconds)} times from an episode's start to the next {name}: "
                f"p50 {p50:.1f} s, most {most:.1f} s"
            )
    return int(gain < -MOST_LOST or not outage_s <= AGAIN_S)


if __name__ == "__main__":
    sys.exit(main())
