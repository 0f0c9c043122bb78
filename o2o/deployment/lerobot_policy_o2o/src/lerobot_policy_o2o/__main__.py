"""Writes the folder that LeRobot's `--policy.path` takes: no weights, only where the policy server is.

python -m lerobot_policy_o2o --address lab:8766 --token-file token --out o2o_policy
lerobot-rollout --policy.path=o2o_policy --robot.type=so101_follower ...
"""

import argparse
import sys

from .configuration_o2o import O2OConfig
from .modeling_o2o import O2OPolicy
from .policy_client import PolicyError
from .processor_o2o import make_o2o_pre_post_processors


def write(config: O2OConfig, out: str) -> None:
    """Writes config, marker of the weights, and pipelines.

    Raises:
        ValueError, PolicyError: see `O2OPolicy`.
    """
    policy = O2OPolicy(config)
    config.input_features, config.output_features = policy.features()
    for part in (policy, *make_o2o_pre_post_processors(config)):
        part.save_pretrained(out)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 a wrong option, 4 no policy server."""
    parser = argparse.ArgumentParser(
        prog="lerobot_policy_o2o", description="Writes a policy folder for LeRobot that asks `o2o serve`."
    )
    parser.add_argument("--address", required=True, help="HOST:PORT of `o2o serve`, or wss://HOST:PORT")
    parser.add_argument("--token-file", default="", help="file with the server's token")
    parser.add_argument("--cert", default="", help="file with the server's certificate, PEM")
    parser.add_argument("--timeout-s", type=float, default=1.0, help="seconds that an answer may take")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode")
    parser.add_argument(
        "--observations", nargs="*", default=[], help="NAME=KEY: LeRobot's key of an observation"
    )
    parser.add_argument("--out", required=True, help="folder to write")
    options = vars(parser.parse_args(argv))
    out, names = options.pop("out"), [text.partition("=") for text in options.pop("observations")]
    try:
        if not all(name and key for name, _, key in names):
            raise ValueError(f"--observations is {' '.join(map(''.join, names))}, wanted NAME=KEY")
        write(O2OConfig(observations={name: key for name, _, key in names}, **options), out)
        return 0
    except (ValueError, OSError, PolicyError) as error:
        print(f"lerobot_policy_o2o: error: {error}", file=sys.stderr)
        return 4 if isinstance(error, PolicyError) else 2


if __name__ == "__main__":
    sys.exit(main())
