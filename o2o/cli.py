"""The door: `o2o COMMAND --flags`. Every flag is a field of a config; every command is a function."""

import contextlib
import difflib
import errno
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import tyro

from o2o import catalog, checkpoint, presets
from o2o.agent import AgentConfig, read_config
from o2o.check import CheckConfig, check
from o2o.config import from_dict
from o2o.demo import DemoConfig, demo
from o2o.errors import O2OError, UsageError
from o2o.evaluate import EvaluateConfig, evaluate
from o2o.finetune import FinetuneConfig, finetune
from o2o.listing import show
from o2o.model import ModelConfig
from o2o.pretrain import PretrainConfig, pretrain
from o2o.robot import RobotConfig, options
from o2o.run import checkpoint_folder, choose_robot, read_papers

COMMANDS = {
    "demo": "the whole journey on a simulated arm, in under three minutes",
    "pretrain": "learn a world model, a critic and a policy from recordings",
    "finetune": "improve a pretrained agent on its robot",
    "evaluate": "play a checkpoint in fixed scenes",
    "check": "look a robot or a dataset over before trusting it",
    "list": "robots, datasets, models and presets there are",
}

USAGE = "\n".join(
    [
        "usage: o2o COMMAND [--flags]        o2o COMMAND --help shows the flags",
        "",
        *(f"  {name:<10}{about}" for name, about in COMMANDS.items()),
        "",
        "exit codes: 0 done, 2 usage or checkpoint, 3 data, 4 robot, 5 diverged, 6 storage, 130 Ctrl-C",
    ]
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        with _speaking():
            code = _run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
            return code
    except O2OError as error:
        print(f"o2o: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("o2o: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `o2o list | head`: nobody listens any more, and that is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(f"o2o: error: cannot write: {error}", file=sys.stderr)
        return 6


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """What o2o itself logs goes to standard error; other libraries keep their own counsel."""
    logger, handler = logging.getLogger("o2o"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("o2o: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command == "--version":
        from o2o.log import versions

        print(versions()["o2o"])
        return 0
    if command not in COMMANDS:
        raise UsageError(catalog.not_found("command", command, list(COMMANDS)))
    if command == "list":
        return show(rest)
    default = DEFAULTS[command](rest)
    if {"-h", "--help", "--help-all"} & set(rest):
        everything = _manual(command, default)
        print(everything if "--help-all" in rest else _short(command, everything))
        return 0
    FUNCTIONS[command](_parse(command, default, rest))
    return 0


def _tyro(command: str, default, argv: list[str]):
    """(config, unknown flags)."""
    about = COMMANDS[command]
    return tyro.cli(
        type(default), default=default, args=argv, prog=f"o2o {command}",
        description=about[0].upper() + about[1:] + ".", return_unknown_args=True,
    )  # fmt: skip


def _parse(command: str, default, argv: list[str]):
    """The config with the flags of `argv` in it.

    Raises:
        UsageError: a flag that does not exist or a value that does not fit, in one line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config, unknown = _tyro(command, default, argv)
    except SystemExit:
        raise UsageError(_one_line(said.getvalue())) from None
    if unknown:
        flags = re.findall(r"--[a-z][\w.-]*", _manual(command, default))
        near = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"`o2o {command}` has no flag {unknown[0]!r}{hint} (`o2o {command} --help-all` shows them)"
        )
    return config


def _manual(command: str, default) -> str:
    """All flags of a command, those of every part included."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        _tyro(command, default, ["--help"])
    return said.getvalue().strip()


def _short(command: str, manual: str) -> str:
    """The manual without the flags of the parts, which are named at the end."""
    own, *parts = re.split(r"\n *\n(?= \w+ options *\n)", manual)
    names = [f"--{part.split()[0]}.*" for part in parts]
    more = f"\n\n`o2o {command} --help-all` also shows {' '.join(names)}" if names else ""
    return own.rstrip() + more


def _one_line(box: str) -> str:
    """The message inside tyro's frame, without frame and advice."""
    title, *rows = re.split(r"\n\s*-{3,}\s*\n", box)
    return " ".join((rows or [title])[0].split())


def _given(argv: list[str], flag: str) -> str:
    """The value of a flag that decides which other flags there are; empty if it was not given."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word[len(flag) + 1 :]
    return ""


def _path(argv: list[str], flag: str) -> Path | None:
    given = _given(argv, flag)
    return Path(given) if given else None


def _saved(argv: list[str], command: str, kind: type):
    """The config of the run to resume."""
    papers = read_papers(_path(argv, "--out"))
    if papers["command"] != command:
        raise UsageError(
            f"{_path(argv, '--out')} is a run of `o2o {papers['command']}`, not of `o2o {command}`"
        )
    data = papers["config"]
    robot = data.get("robot", "")
    robot_kind = type(options(robot)) if robot and data["robot_options"] else RobotConfig
    agent = read_config(data["agent"])
    plain = {name: value for name, value in data.items() if name != "agent"}
    return replace(from_dict(kind, plain, {"robot_options": robot_kind}), agent=agent, resume=True)


def _agent(config: AgentConfig, argv: list[str]) -> AgentConfig:
    """The config for another `--model`, with that model's options."""
    model = _given(argv, "--model")
    if not model or model == config.model:
        return config
    kind = getattr(catalog.load("models", model), "Config", ModelConfig)
    return replace(config, model=model, world=kind())


def _with_robot(config, argv: list[str], saved: dict | None):
    """The config with the options of the robot that flags or checkpoint name, so that they become flags."""
    name = _given(argv, "--robot")
    if not name and not (saved and saved.get("robot")):
        return config
    return choose_robot(replace(config, robot=name), saved)


def _pretrain(argv: list[str]) -> PretrainConfig:
    if "--resume" in argv:
        return _saved(argv, "pretrain", PretrainConfig)
    name = _given(argv, "--preset") or PretrainConfig.preset
    preset = presets.get(name)
    config = PretrainConfig(
        preset=name,
        agent=_agent(preset.agent, argv),
        data=preset.data,
        updates=preset.updates,
        threads=preset.threads,
    )
    robot = _given(argv, "--robot")
    return replace(config, robot=robot, robot_options=options(robot)) if robot else config


def _meta(argv: list[str]) -> dict:
    """What the checkpoint that is named says of itself; empty if none is."""
    source = _path(argv, "--checkpoint")
    return checkpoint.load(checkpoint_folder(source))[1] if source else {}


def _of_checkpoint(config, argv: list[str], meta: dict):
    """The config with the agent and the robot of a checkpoint."""
    if meta:
        config = replace(config, agent=_agent(read_config(meta["config"]), argv))
    return _with_robot(config, argv, meta.get("robot"))


def _finetune(argv: list[str]) -> FinetuneConfig:
    if "--resume" in argv:
        return _saved(argv, "finetune", FinetuneConfig)
    meta = _meta(argv)
    name = _given(argv, "--preset") or meta.get("preset", "")
    preset = presets.get(name) if name else presets.Preset
    config = FinetuneConfig(preset=name, updates_per_step=preset.updates_per_step, threads=preset.threads)
    return _of_checkpoint(config, argv, meta)


def _check(argv: list[str]) -> CheckConfig:
    return _with_robot(CheckConfig(), argv, None)


DEFAULTS: dict[str, Callable] = {
    "demo": lambda argv: DemoConfig(),
    "pretrain": _pretrain,
    "finetune": _finetune,
    "evaluate": lambda argv: _of_checkpoint(EvaluateConfig(), argv, _meta(argv)),
    "check": _check,
}
FUNCTIONS: dict[str, Callable] = {
    "demo": demo, "pretrain": pretrain, "finetune": finetune, "evaluate": evaluate, "check": check,
}  # fmt: skip
