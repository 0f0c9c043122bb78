"""Times a served policy on this machine: `python -m tests.stress.policy_latency --calls 1000`.

Untrained agents of the presets `small` (a state; policy and planner) and `fowm` (an 84x84 image and a state;
policy) are served by `o2o serve` in a process of its own. One client, and then several at once, ask for an
action after the other; beside it stands the same decision without a server (`o2o.load`). `--run RUN` times a
run of yours instead.
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import o2o
from o2o.agent import presets
from o2o.core.transform import ObsTransform, Transform
from o2o.deployment.policy_client import PolicyClient
from tests.support.served import serving_process
from tests.support.served_policy import make_agent, write_run

STATE = {"state": ObsTransform((10,))}
IMAGE = {"camera": ObsTransform((84, 84, 3), image=True), **STATE}


def make_cases(folder: Path) -> list[tuple[Path, str]]:
    """Writes the checkpoints; returns (run, who acts) of each case."""
    runs = {}
    for preset, fields in (("small", STATE), ("fowm", IMAGE)):
        transform = Transform(fields, (-1.0,) * 4, (1.0,) * 4, control_hz=10.0)
        runs[preset] = write_run(folder / preset, make_agent(transform, presets.get(preset).agent), plan=True)
    return [(runs["small"], "policy"), (runs["small"], "planner"), (runs["fowm"], "policy")]


def observation(spec: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns a random observation that a policy states."""
    draw = {"uint8": lambda shape: rng.integers(0, 256, shape).astype(np.uint8)}
    normal = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {name: draw.get(one["dtype"], normal)(one["shape"]) for name, one in spec.items()}


def times_of(act, obs: list[dict], calls: int) -> np.ndarray:
    """Returns (calls,) ms that each decision took."""
    times = []
    for number in range(calls):
        begin = time.perf_counter()
        act(obs[number % len(obs)])
        times.append(1e3 * (time.perf_counter() - begin))
    return np.array(times)


def client_times(port: int, calls: int, num_clients: int) -> np.ndarray:
    """Returns ms of each decision of clients that ask at once, each from a thread of its own."""
    times, rng = [], np.random.default_rng(0)

    def ask() -> None:
        with PolicyClient(f"127.0.0.1:{port}", timeout_s=60) as client:
            obs = [observation(client.policy["obs"], rng) for _ in range(10)]
            client.reset()
            times_of(lambda one: client.act(one), obs, 10)
            times.append(times_of(lambda one: client.act(one), obs, calls))

    threads = [threading.Thread(target=ask) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.concatenate(times)


def alone_times(run: Path, plan: bool, calls: int) -> np.ndarray:
    """Returns ms of each decision of the same policy in this process."""
    policy, rng = o2o.load(run, plan=plan, device="cpu"), np.random.default_rng(0)
    spec = {name: {"dtype": one.dtype, "shape": one.shape} for name, one in policy.spec.obs.items()}
    obs = [observation(spec, rng) for _ in range(10)]
    policy.reset()
    return times_of(lambda one: policy.act(one, 0.0), obs, calls)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, help="run to serve instead of untrained agents")
    parser.add_argument("--calls", type=int, default=1000, help="decisions that are timed, of each client")
    parser.add_argument("--clients", type=int, default=4, help="clients that ask at once, after one alone")
    options = parser.parse_args()
    print(f"{'':34}{'p50':>9}{'p99':>9}{'most':>9}  ms")
    with tempfile.TemporaryDirectory() as folder:
        own = [(options.run, "policy"), (options.run, "planner")]
        for run, acting in own if options.run else make_cases(Path(folder)):
            calls = options.calls if acting == "policy" else max(1, options.calls // 10)
            rows = {"o2o.load": alone_times(run, acting == "planner", calls)}
            words = ("serve", str(run), "--acting", acting, "--device", "cpu", "--threads", "1")
            with serving_process(*words) as (_, port):
                rows["1 client"] = client_times(port, calls, 1)
                rows[f"{options.clients} clients"] = client_times(port, calls, options.clients)
            print(f"{run.name}, {acting}, {calls} calls")
            for name, times in rows.items():
                p50, p99, most = *np.quantile(times, [0.5, 0.99]), times.max()
                print(f"  {name:32}{p50:9.2f}{p99:9.2f}{most:9.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
