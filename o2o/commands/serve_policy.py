"""Runs `o2o serve`, which serves the policy of a run over a socket."""

import time

from o2o.commands.serve_policy_config import ServePolicyConfig
from o2o.core.compute import should_compile, tune
from o2o.core.run_folder import stop_requested
from o2o.core.trust import give
from o2o.deployment.policy_server import PolicyServer
from o2o.training.loaded_policy import load_agent
from o2o.training.rollout import warm_up


def serve_policy(config: ServePolicyConfig) -> None:
    """Serves the policy until Ctrl-C or SIGTERM.

    Raises:
        UsageError: an invalid run, token, certificate or address.
        RobotError: the port cannot be used.
    """
    tune(config)
    give(*config.trust)
    wanted = {"auto": None, "planner": True, "policy": False}[config.acting]
    with stop_requested() as stopped:
        agent, plan, _ = load_agent(
            config.run, wanted, config.device, config.planner.budget_ms, should_compile(config, 0)
        )
        warm_up(agent, plan)
        name = config.run.resolve().name
        with PolicyServer(agent, plan, config, name) as server:
            what = f"the {'planner' if plan else 'policy'} of {name!r}"
            how = " with TLS" if config.cert else ""
            print(f"serving {what} at {config.host}:{server.port}{how}; Ctrl-C ends", flush=True)
            while not stopped():
                time.sleep(0.05)
