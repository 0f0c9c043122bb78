"""Runs one command: derives its defaults from the command line, parses the flags, calls the function.

The options of a command lie in a module that imports no torch, beside the module of its function, which is
imported only when the command runs. So help pages and mistyped flags are answered at once.
"""

import contextlib
import difflib
import functools
import importlib
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import tyro
from tyro import MISSING

from o2o.agent import presets
from o2o.agent.agent_config import AgentConfig, model_options_class, read_config
from o2o.commands.bench.config import BenchConfig
from o2o.commands.check_config import CheckConfig
from o2o.commands.compare.config import CompareConfig, of_preset
from o2o.commands.data.flags import (
    ConvertConfig,
    InfoConfig,
    MergeConfig,
    RelabelConfig,
    ShowDataConfig,
    SplitConfig,
)
from o2o.commands.demo_config import DemoConfig
from o2o.commands.export_config import ExportConfig
from o2o.commands.flags import flag_tree
from o2o.commands.fleet_status_config import FleetStatusConfig
from o2o.commands.help_page import full_page, short_page
from o2o.commands.inspect_config import InspectConfig
from o2o.commands.learner_serve_config import LearnerServeConfig
from o2o.commands.pull_config import PullConfig
from o2o.commands.push_config import PushConfig
from o2o.commands.record_config import RecordConfig
from o2o.commands.replay_config import ReplayConfig
from o2o.commands.reproduce import ReproduceConfig
from o2o.commands.runs import RunsConfig, ShowConfig
from o2o.commands.serve_config import ServeConfig
from o2o.commands.serve_policy_config import ServePolicyConfig
from o2o.commands.study.config import StudyConfig
from o2o.commands.sweep.config import SweepConfig
from o2o.core import plugins, run_checkpoint, trust
from o2o.core.config import FieldError, SavedConfigError, check_finite, from_dict
from o2o.core.errors import UsageError
from o2o.core.extras import needed_by
from o2o.core.paths import expand_user, o2o_home
from o2o.core.progress import live_line
from o2o.core.run_folder import RUN_INFO, checkpoint_folder, read_run_info
from o2o.core.torchrun import check_command
from o2o.fleet.client import GatewayClient
from o2o.fleet.messages import is_url
from o2o.hardware.robot_choice import choose_robot
from o2o.hardware.robot_config import RobotConfig, default_config
from o2o.training.evaluate_config import EvaluateConfig
from o2o.training.finetune_config import NO_SAFE_START, FinetuneConfig
from o2o.training.pretrain_config import PretrainConfig

OF_LEARNER = (  # flags of `o2o finetune` that a robot of a fleet leaves to its learner
    "--updates-per-step", "--offline-ratio", "--max-online-oversampling", "--dataset", "--memory-budget",
    "--checkpoint-every", "--keep-checkpoints", "--learner-threads", "--learning-rate", "--batch-size",
    "--preset",
)  # fmt: skip
CONVERSATIONS = ("data relabel", "robot serve")  # read lines from the terminal, so no line may move there


def run(command: str, argv: list[str]) -> None:
    """Runs one command, or prints its flags where `argv` asks for help.

    Args:
        command: a name in `FUNCTIONS`.
        argv: its flags.
    Raises:
        UsageError: a flag that does not exist, a value that does not fit, code that only a file names, or a
            package that is not installed.
    """
    with needed_by(f"`o2o {command}`"):
        _run(command, argv)


def _run(command: str, argv: list[str]) -> None:
    argv = [_at_home(word) for word in argv]
    trust.give(*_python_files(argv))
    if command in RUN_CONFIGS and _value(argv, "--config") and "--resume" not in argv:
        default = _from_config(argv, command)
        argv = _without(argv, "--config")
    else:
        default = DEFAULTS[command](argv)
    if "--help-all" in argv:
        print(full_page(command, flag_tree(default)))
    elif {"-h", "--help"} & set(argv):
        print(short_page(command, flag_tree(default)))
    else:
        check_command(command)
        config = _parse(command, default, argv)
        with _flags_in_errors(config, argv):
            if hasattr(config, "check_inputs"):
                config.check_inputs()
            with nullcontext() if command in CONVERSATIONS else live_line(f"o2o {command}"):
                function(command)(config)


def _at_home(word: str) -> str:
    """Returns a word with the home folder in place of `~/`, which a shell leaves in `--out=~/run`.

    Raises:
        UsageError: the word holds a NUL, which no path can.
    """
    if "\0" in word:
        raise UsageError(f"{word!r:.60} holds a NUL character")
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if not value.startswith("~/") or flag == "--dataset.obs":
        return word
    return trust.derive(word, f"{flag}{equals}{expand_user(value)}")


def _parse(command: str, default, argv: list[str]):
    """Returns the config with the flags of `argv` in it.

    Raises:
        UsageError: a flag that does not exist, a value that does not fit, or a number that is not finite, in
            one line.
    """
    output, argv = io.StringIO(), _with_exclusions(argv)
    try:
        with contextlib.redirect_stderr(output), _flags_in_errors(default, argv):
            config, unknown = tyro.cli(
                type(default), default=default, args=argv, prog=f"o2o {command}", return_unknown_args=True
            )
            check_finite(config)
    except SystemExit:
        raise UsageError(_one_line(output.getvalue())) from None
    empty = _empty_flags(argv)
    for flag in flag_tree(default).flags if empty else ():
        if flag.metavar == "PATH" and flag.name in empty:
            raise UsageError(f"{flag.name} is empty, wanted a path")
    if unknown:
        near = difflib.get_close_matches(unknown[0].split("=")[0], flag_tree(default).names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"`o2o {command}` has no flag {unknown[0]!r}{hint} (`o2o {command} --help-all` shows them)"
        )
    return config


# what tyro says of a value that is none of several types, up to the reason of the last one
UNION_ERROR = re.compile(r"no type matching .* could be instantiated from .*- <class '\w+'>: ")


def _with_exclusions(argv: list[str]) -> list[str]:
    """Returns the words with `~` for the `-` of what `--dataset.obs` leaves out, which is no flag."""
    result, flag = [], ""
    for word in argv:
        flag = word.partition("=")[0] if word.startswith("--") else flag
        excludes = flag == "--dataset.obs" and word[:1] == "-" and word[1:2] not in ("", "-") and word != "-h"
        result.append("~" + word[1:] if excludes else word)
    return result


@contextlib.contextmanager
def _flags_in_errors(config, argv: list[str]):
    """Replaces the field paths of a `FieldError` with flags as the user types them.

    Raises:
        UsageError: for a `FieldError` inside the block.
    """
    try:
        yield
    except FieldError as error:
        raise UsageError(flag_tree(config).message(error, argv)) from error


def _one_line(box: str) -> str:
    """Returns the message inside tyro's frame, drawn in ASCII or in Unicode, without frame and advice."""
    blocks: list[list[str]] = [[]]
    for line in box.splitlines():
        plain = line.strip("│╭╮╰╯ \t")
        if plain.endswith(("---", "───")):
            blocks.append([])
        else:
            blocks[-1].append(plain)
    text = " ".join(" ".join(blocks[1] if len(blocks) > 1 else blocks[0]).split())
    return UNION_ERROR.sub("", text)


def _python_files(argv: list[str]) -> list[str]:
    """Returns the Python files that a command line names: those of `--trust`, and words that end in .py."""
    flag, found = "", []
    for word in argv:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
        else:
            value = word
        if value and (flag == "--trust" or (value.endswith(".py") and expand_user(value).is_file())):
            found.append(trust.derive(word, value))
    return found


def _value(argv: list[str], flag: str) -> str:
    """Returns the value of a flag that decides which other flags there are; empty if it is not given."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return trust.derive(word, word[len(flag) + 1 :])
    return ""


def _empty_flags(argv: list[str]) -> set[str]:
    """Returns the flags that are given with an empty value."""
    joined = {word[:-1] for word in argv if word.endswith("=")}
    return joined | {flag for flag, value in itertools.pairwise(argv) if not value}


def _path(argv: list[str], flag: str) -> Path | None:
    value = _value(argv, flag)
    return Path(value) if value else None


def _new_or_saved(command: str, new: Callable, argv: list[str]):
    """Returns the defaults of a new run, or with `--resume` the config of the run to resume.

    Raises:
        UsageError: see `saved_config`.
    """
    if "--resume" not in argv:
        return new(argv)
    if _value(argv, "--config"):
        raise UsageError("--resume continues a run with its own settings: leave --config out")
    return replace(saved_config(_path(argv, "--out"), command), resume=True)


def saved_config(folder: Path | None, command: str):
    """Returns the config of a run, or of its `run.json` under any name.

    Raises:
        UsageError: there is no run, or see `_config_of`.
    """
    return _config_of(read_run_info(folder), folder, command)


def _config_of(run_info: Mapping, source: Path | None, command: str):
    """Returns the config in the metadata of a run; its texts permit no file to run (`o2o.core.trust`).

    Args:
        run_info: from `read_run_info`.
        source: the run's folder or file, for errors.
        command: command that the run must be of.
    Raises:
        UsageError: a run of another command, or one that another version of o2o wrote.
    """
    if run_info["command"] != command or command not in SAVED_CONFIGS:
        raise UsageError(f"{source} is a run of `o2o {run_info['command']}`, not of `o2o {command}`")
    data = run_info["config"]
    try:
        robot = data.get("robot", "")
        is_named = isinstance(robot, str) and robot and data.get("robot_options")
        nested = {"robot_options": type(default_config(robot)) if is_named else RobotConfig}
        agent = {"agent": read_config(data["agent"])} if "agent" in data else {}
        plain = {name: value for name, value in data.items() if name != "agent"}
        config = replace(from_dict(SAVED_CONFIGS[command], plain, nested), **agent)
    except SavedConfigError as error:
        if error.writer != "o2o":
            raise
        raise UsageError(
            f"{source}/{RUN_INFO} was edited, or written by {_version(run_info.get('versions'))}, "
            f"which this version of o2o cannot resume: {error.problem}; "
            "start a new run with another --out, or use that version"
        ) from error
    # a cluster belongs to the machine and not to the run, whose file could name anybody's
    return replace(config, on="here", ray_address="", slurm=()) if hasattr(config, "on") else config


def _new_run(config):
    """Returns the config of a run as that of a new one."""
    changes = {"out": None, **({"resume": False} if hasattr(config, "resume") else {})}
    return replace(config, **changes)


def _from_config(argv: list[str], command: str):
    """Returns the defaults of a command line with `--config`: the settings of that run, for a new one.

    Raises:
        UsageError: see `saved_config`; or a flag that would change defaults which the run has fixed.
    """
    source = _path(argv, "--config")
    if _value(argv, "--preset"):
        raise UsageError("--config states every setting, so --preset would change none: leave one out")
    config = _new_run(saved_config(source, command))
    if hasattr(config, "agent"):
        config = replace(config, agent=_agent(config.agent, argv))
    name = _value(argv, "--robot")
    if name and name != config.robot:
        config = _with_robot(replace(config, robot_options=RobotConfig()), argv, None)
    return config


def _without(argv: list[str], flag: str) -> list[str]:
    """Returns the words without a flag and its value."""
    words = zip(["", *argv], argv, strict=False)
    return [word for before, word in words if flag not in (before, word.partition("=")[0])]


def _run_again(run_info: Mapping, folder: Path) -> tuple[object, Callable]:
    """Returns the config of a run and the function of its command, for `o2o reproduce`."""
    command = str(run_info["command"])
    config = _new_run(_config_of(run_info, folder, command))

    def run_it(config):
        with _flags_in_errors(config, []):
            return function(command)(config)

    return config, run_it


def _version(versions) -> str:
    """Names the version of o2o in the `versions` of a run's metadata."""
    versions = versions if isinstance(versions, dict) else {}
    commit = versions.get("commit")
    return f"o2o {versions.get('o2o') or 'of an unknown version'}" + (f" (commit {commit})" if commit else "")


def _agent(config: AgentConfig, argv: list[str]) -> AgentConfig:
    """Returns the config for another `--model`, with that model's options."""
    model = _value(argv, "--model")
    if not model or plugins.canonical_name("models", model) == config.model:
        return config
    return replace(config, model=model, model_options=model_options_class(model)())


def _with_robot(config, argv: list[str], saved: dict | None):
    """Returns the config with the options of the robot that flags or checkpoint name, which become flags."""
    name = _value(argv, "--robot")
    if not name and not (saved and saved.get("robot")):
        return config
    return choose_robot(replace(config, robot=name), saved)


def _recorded_on(argv: list[str], flag: str = "--dataset") -> dict | None:
    """Returns the robot of the recipe that a flag names; None where it names none."""
    dataset = _value(argv, flag)
    named = dataset in plugins.names("datasets")
    recipe = getattr(plugins.load("datasets", dataset), "RECIPE", None) if named else None
    return {"robot": recipe.robot, "robot_options": recipe.robot_options} if recipe else None


def _pretrain(argv: list[str]) -> PretrainConfig:
    config = of_preset(_value(argv, "--preset") or PretrainConfig.preset)
    config = replace(config, agent=_agent(config.agent, argv))
    return _with_robot(config, argv, _recorded_on(argv)) if _value(argv, "--robot") else config


def _meta(argv: list[str]) -> dict:
    """Returns the metadata of the checkpoint that `--checkpoint` names; empty if it names none."""
    source = _path(argv, "--checkpoint")
    return run_checkpoint.load_meta(checkpoint_folder(source)) if source else {}


def _of_checkpoint(config, argv: list[str], meta: dict):
    """Returns the config with the agent and the robot of a checkpoint."""
    if meta:
        config = replace(config, agent=_agent(_saved_agent(argv, meta), argv))
    return _with_robot(config, argv, meta.get("robot"))


def _saved_agent(argv: list[str], meta: dict) -> AgentConfig:
    """Returns the agent's config in a checkpoint's metadata.

    Raises:
        UsageError: another version of o2o wrote it.
    """
    try:
        return read_config(meta["config"])
    except SavedConfigError as error:
        raise UsageError(f"checkpoint {_value(argv, '--checkpoint')}: {error}") from error


def _finetune(argv: list[str]) -> FinetuneConfig:
    if is_url(_value(argv, "--learner")) and not {"-h", "--help", "--help-all"} & set(argv):
        argv = _of_fleet(argv)
    meta = _meta(argv)
    name = _value(argv, "--preset") or meta.get("preset", "")
    preset = presets.get(name) if name else presets.Preset
    config = FinetuneConfig(
        checkpoint=_path(argv, "--checkpoint"),
        preset=name,
        updates_per_step=preset.updates_per_step,
        threads=preset.threads,
        plan=meta.get("plan", preset.plan) or meta.get("plan_chosen", False),
        **({} if preset.safe_start else NO_SAFE_START),
    )
    robot = _recorded_on(argv, "--task-of") or meta.get("robot")
    return _of_checkpoint(config, argv, {**meta, "robot": robot} if meta else meta)


def _of_fleet(argv: list[str]) -> list[str]:
    """Returns the words of a robot of a fleet, with the checkpoint of its learner unless they name one.

    Raises:
        UsageError: a flag that only the learner can decide.
        RobotError: the learner does not answer.
    """
    words = {word.partition("=")[0] for word in argv}
    for flag in sorted(words):
        if flag in OF_LEARNER or flag.startswith(("--rollback.", "--replay.")):
            raise UsageError(f"{flag} is a matter of the learner: give it to `o2o learner serve`")
    if "--checkpoint" in words:
        return argv
    token, cert = _path(argv, "--learner-token-file"), _path(argv, "--learner-cert")
    with contextlib.closing(GatewayClient(_value(argv, "--learner"), token, cert)) as client:
        return [*argv, "--checkpoint", str(client.fetch_checkpoint(o2o_home() / "learners"))]


def _learner_serve(argv: list[str]) -> LearnerServeConfig:
    meta = _meta(argv)
    preset = presets.get(meta["preset"]) if meta.get("preset") else presets.Preset
    changes = {} if preset.safe_start else NO_SAFE_START
    config = LearnerServeConfig(updates_per_step=preset.updates_per_step, threads=preset.threads, **changes)
    return replace(config, agent=_agent(_saved_agent(argv, meta), argv)) if meta else config


def _evaluate(argv: list[str]) -> EvaluateConfig:
    meta = _meta(argv)
    records_plans = any(word.startswith("--record-plans") for word in argv)
    return _of_checkpoint(EvaluateConfig(plan=meta.get("plan", True) or records_plans), argv, meta)


def _record(argv: list[str]) -> RecordConfig:
    meta = _meta(argv)
    return _with_robot(RecordConfig(plan=meta.get("plan", True)), argv, meta.get("robot"))


def _preset_config(preset: str, flags: Sequence[str]) -> PretrainConfig:
    """Returns the pretraining config of a preset with flags, for `o2o compare`, `study` and `sweep`."""
    argv = ["--preset", preset, *flags]
    trust.give(*_python_files(argv))
    config = _parse("pretrain", _pretrain(argv), argv)
    return trust.mark(config) if any(isinstance(flag, trust.Saved) for flag in flags) else config


def _check(argv: list[str]) -> CheckConfig:
    return _with_robot(CheckConfig(), argv, _recorded_on(argv)) if _value(argv, "--robot") else CheckConfig()


def _serve(argv: list[str]) -> ServeConfig:
    if not any(word.startswith("--robot") for word in argv):
        return ServeConfig()
    name = _value(argv, "--robot") or ServeConfig.robot
    return ServeConfig(robot=name, robot_options=default_config(name))


def _bench(argv: list[str]) -> BenchConfig:
    meta = _meta(argv)
    return BenchConfig(agent=_agent(_saved_agent(argv, meta) if meta else AgentConfig(), argv))


RUN_CONFIGS = {  # the commands whose runs have a `run.json`
    "demo": DemoConfig, "pretrain": PretrainConfig, "finetune": FinetuneConfig, "compare": CompareConfig,
    "study": StudyConfig, "sweep": SweepConfig, "record": RecordConfig,
}  # fmt: skip
SAVED_CONFIGS = {**RUN_CONFIGS, "evaluate": EvaluateConfig}  # an evaluation in parts has one for each
DEFAULTS: dict[str, Callable] = {
    "demo": lambda argv: DemoConfig(),
    "pretrain": _pretrain,
    "finetune": _finetune,
    "learner serve": _learner_serve,
    "fleet status": lambda argv: FleetStatusConfig(MISSING),
    "evaluate": _evaluate,
    "record": _record,
    "replay": lambda argv: _with_robot(ReplayConfig(), argv, None),
    "export": lambda argv: ExportConfig(run=MISSING),
    "inspect": lambda argv: InspectConfig(run=MISSING),
    "runs": lambda argv: RunsConfig(),
    "show": lambda argv: ShowConfig(run=MISSING),
    "reproduce": lambda argv: ReproduceConfig(run=MISSING),
    "push": lambda argv: PushConfig(MISSING, MISSING),
    "pull": lambda argv: PullConfig(MISSING),
    "compare": lambda argv: _with_robot(CompareConfig(), argv, _recorded_on(argv)),
    "study": lambda argv: StudyConfig(),
    "sweep": lambda argv: _with_robot(SweepConfig(), argv, _recorded_on(argv)),
    "check": _check,
    "data info": lambda argv: InfoConfig(MISSING),
    "data show": lambda argv: ShowDataConfig(MISSING),
    "data convert": lambda argv: ConvertConfig(MISSING, MISSING),
    "data relabel": lambda argv: RelabelConfig(MISSING, MISSING),
    "data split": lambda argv: SplitConfig(MISSING, MISSING, MISSING),
    "data merge": lambda argv: MergeConfig(),
    "robot serve": _serve,
    "serve": lambda argv: ServePolicyConfig(run=MISSING),
    "bench": _bench,
}
RESUMABLE = RUN_CONFIGS.keys() - {"demo"}
DEFAULTS |= {command: functools.partial(_new_or_saved, command, DEFAULTS[command]) for command in RESUMABLE}
# Name of a command -> its module below `o2o` and its function there, imported only when the command runs.
FUNCTIONS = {
    "demo": "commands.demo.demo",
    "pretrain": "training.pretrain.pretrain",
    "finetune": "training.finetune.finetune",
    "learner serve": "commands.learner_serve.serve",
    "fleet status": "commands.fleet_status.status",
    "evaluate": "training.evaluate.evaluate",
    "record": "commands.record.record",
    "replay": "commands.replay_actions.replay",
    "export": "commands.export_run.export_run",
    "inspect": "commands.inspect_run.report",
    "runs": "commands.runs.runs",
    "show": "commands.runs.show",
    "reproduce": "commands.reproduce.reproduce",
    "push": "commands.push.push",
    "pull": "commands.pull.pull",
    "compare": "commands.compare.loop.compare",
    "study": "commands.study.loop.study",
    "sweep": "commands.sweep.loop.sweep",
    "check": "commands.check.check",
    "bench": "commands.bench.measure.bench",
    "data info": "commands.data.info.info",
    "data show": "commands.data.show.show",
    "data convert": "commands.data.convert.convert",
    "data relabel": "commands.data.relabel.relabel",
    "data split": "commands.data.split.split",
    "data merge": "commands.data.merge.merge",
    "robot serve": "commands.serve.serve",
    "serve": "commands.serve_policy.serve_policy",
}


def function(command: str) -> Callable:
    """Imports the function of a command and returns it; some read other commands' settings."""
    module, _, name = FUNCTIONS[command].rpartition(".")
    run_command = getattr(importlib.import_module(f"o2o.{module}"), name)
    trials = dict.fromkeys(("compare", "study", "sweep"), _preset_config)
    readers = {**trials, "reproduce": _run_again}
    return functools.partial(run_command, read=readers[command]) if command in readers else run_command
