"""Writes the card of a published run: its task, data, success, robot, command line, use and limits."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from o2o.core.errors import O2OError
from o2o.core.recipe import load_recipe
from o2o.core.run_summary import saved_versions, short_name
from o2o.core.text import count, printable
from o2o.deployment.measured import Measured
from o2o.deployment.privacy import ELSEWHERE

TAGS = ("robotics", "reinforcement-learning", "world-model", "offline-to-online", "o2o")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from.

    Attributes:
        repo: OWNER/NAME.
        info: content of `run.json`, cleaned.
        meta: meta of the checkpoint, cleaned.
        measured: success and return, before and after.
        license: license of the checkpoint, as the hub names it; empty: none is stated.
        data_license: license of the recordings; empty: that of their recipe.
        files: path -> bytes of the published files.
        is_simulated: whether the robot is a simulator.
    """

    repo: str
    info: dict[str, Any]
    meta: dict[str, Any]
    measured: Sequence[Measured]
    license: str
    data_license: str
    files: Mapping[str, int]
    is_simulated: bool

    @property
    def task(self) -> str:
        """Returns what the run learned, in the words of its robot and data."""
        robot, options = short_name(self.meta.get("robot", {}).get("robot", "")), self.meta.get("robot", {})
        options = options.get("robot_options", {})
        of_robot = options.get("task") or options.get("id")
        what = f"`{_plain(of_robot)}` of robot `{robot}`" if of_robot else f"robot `{robot}`" if robot else ""
        data = f"the recordings `{short_name(self.meta['dataset']['dataset'])}`"
        return f"{what}, learned from {data}" if what else data


def write_card(facts: CardFacts) -> str:
    """Returns the text of a card, with its metadata as YAML at the head."""
    parts = [
        f"---\n{_metadata(facts)}\n---\n",
        f"# {facts.repo.partition('/')[2]}\n",
        f"A world model, a critic, a policy and a planner for {facts.task}, trained by "
        f"`o2o {_plain(facts.info['command'])}` of o2o "
        f"{_plain(saved_versions(facts.info).get('o2o') or '')}.\n",
        "## Results\n", *_results(facts.measured),
        "## Data\n", *_data(facts),
        "## Robot\n", *_robot(facts.meta, facts.is_simulated),
        "## How it was made\n", *_made(facts),
        "## Use\n", *_use(facts.repo),
        "## Limits\n", *_limits(facts),
        "## Files\n", *_files(facts.files),
    ]  # fmt: skip
    return "\n".join(parts)


def _metadata(facts: CardFacts) -> str:
    """Returns the YAML that the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    name = facts.repo.partition("/")[2]
    dataset = short_name(facts.meta["dataset"]["dataset"])
    last = facts.measured[-1:]
    numbers = [("success_rate", one.success) for one in last] + [("return", one.mean_return) for one in last]
    results = [
        EvalResult(
            task_type="robotics", dataset_type="o2o", dataset_name=dataset, metric_type=metric,
            metric_name=metric.replace("_", " "), metric_value=round(value, 6),
        )
        for metric, value in numbers if np.isfinite(value)
    ]  # fmt: skip
    data = ModelCardData(
        library_name="o2o", pipeline_tag="robotics", tags=list(TAGS), license=facts.license or None,
        model_name=name if results else None, eval_results=results or None,
    )  # fmt: skip
    return data.to_yaml().strip()


def _results(measured: Sequence[Measured]) -> list[str]:
    if not measured:
        return ["It was never measured on a robot.\n"]
    head = "| when | success | return | episodes |\n|---|---|---|---|"
    rows = ["| " + " | ".join(one.cells()) + " |" for one in measured]
    return [head, *rows, "", "Brackets are 95 % intervals: Wilson's of a rate, the bootstrap's of a mean.\n"]


def _data(facts: CardFacts) -> list[str]:
    data, sample = facts.meta["dataset"], facts.meta.get("sample", {})
    steps = sample.get("steps", ())
    size = f"{count(data['episodes'], 'episode')}, {count(data['steps'], 'step')}"
    lines = [
        f"- {_plain(short_name(data['dataset']))}: {size}, {_plain(data.get('format') or UNKNOWN)}",
        f"- sha256 of the data: `{_plain(data['fingerprint'])}`",
        f"- license of the data: {_plain(facts.data_license or _recipe_license(data))}",
    ]
    if steps:
        carried = f"{count(len(steps), 'recorded episode')} of {count(sum(steps), 'step')}"
        lines.append(f"- the checkpoint carries {carried}: whoever has it has these, images included")
    return [*lines, ""]


def _robot(meta: Mapping[str, Any], is_simulated: bool) -> list[str]:
    robot, transform = meta.get("robot", {}), meta["transform"]
    hz, low, high = transform.get("control_hz"), transform["action_low"], transform["action_high"]
    name = short_name(robot.get("robot", "")) or "none is named"
    kind = " (a simulator)" if is_simulated else ""
    rows = [f"- robot: {_plain(name)}{kind}"]
    rows += [f"- control rate: {f'{hz:g} Hz' if hz else UNKNOWN}"]
    rows += [f"- actions: {len(low)} numbers, from {_numbers(low)} to {_numbers(high)}, in the robot's unit"]
    for obs, field in transform["fields"].items():
        kind = "image" if field["image"] else "vector"
        rows.append(f"- observation `{_plain(obs)}`: {kind} of shape {tuple(field['shape'])}")
    return [*rows, ""]


def _made(facts: CardFacts) -> list[str]:
    words, meta = facts.info.get("command_line") or [], facts.meta
    typed = shlex.join(["o2o", *words]).replace("'...'", "...") if words else "(Python code, no command)"
    acts = "the planner" if meta.get("plan", True) else "the policy alone"
    if meta.get("plan_chosen"):
        has_played = meta.get("episodes", -1) > 0
        acts += (
            ", which did better in the robot's episodes"
            if has_played
            else ", until episodes show which is better"
        )
    versions = ", ".join(f"{name} {value}" for name, value in saved_versions(facts.info).items() if value)
    return [
        f"    {printable(typed)}\n",
        f"- preset: {_plain(meta.get('preset') or UNKNOWN)}",
        f"- updates: {meta['num_updates']:,}"
        + (f", episodes of the robot: {meta['episodes']:,}" if meta.get("episodes", -1) >= 0 else ""),
        f"- acts with: {acts}",
        f"- versions: {_plain(versions)}",
        f"- `...`, `HOST` and `{ELSEWHERE}` stand for what the machine that trained it keeps to itself\n",
    ]


def _use(repo: str) -> list[str]:
    name = repo.partition("/")[2]
    return [
        f"    o2o pull {repo} --out {name}",
        f"    o2o evaluate --checkpoint {name} --episodes 50\n",
        "or, in your own control loop,\n",
        "    import o2o",
        f'    policy = o2o.load("{name}")\n',
    ]


def _limits(facts: CardFacts) -> list[str]:
    episodes = facts.measured[-1].episodes if facts.measured else 0
    where = "in simulation" if facts.is_simulated else "on its robot"
    shown = f"was measured {where} in {count(episodes, 'episode')}" if episodes else "was never measured"
    license_ = facts.license or "none is stated: ask the owner before you use it"
    return [
        f"- It {shown}; other scenes, robots and cameras are another task.",
        "- It knows what its data show. Where they end, its values are guesses: `--ood-action hold` stops "
        "there.",
        "- Its actions stay within the recorded bounds. Limits of velocity, acceleration and workspace are "
        "those of the robot's guard, which is not part of it.",
        "- It is data, safetensors and JSON, and holds no code. A file of a robot, model or recipe that "
        "it names runs only if you permit it.",
        f"- License of the checkpoint: {_plain(license_)}.\n",
    ]


def _files(files: Mapping[str, int]) -> list[str]:
    return [*(f"- `{name}`, {size:,} bytes" for name, size in files.items()), ""]


def _recipe_license(data: Mapping[str, Any]) -> str:
    """Returns the license that the recipe of recordings states, where the recipe may run."""
    for name in (data.get("dataset_options", {}).get("recipe"), data["dataset"]):
        try:
            if name:
                return load_recipe(name).license
        except O2OError:
            continue
    return UNKNOWN


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _plain(text: Any) -> str:
    """Returns a text of a file that cannot format the card or break its lines."""
    return printable(str(text)).replace("`", "'").replace("<", "&lt;").replace("[", "(").replace("|", "/")
