"""What a world model believes will happen: it sees a few observations, and then only the actions."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.seeding import Stream, derive
from o2o.core.spec import is_image
from o2o.core.video import write_picture

NUM_COLUMNS, NUM_LINES, LINES_A_ROW = 10, 8, 4
WIDTH, IMAGES_HEIGHT, LINE_HEIGHT = 12.0, 3.7, 1.6  # inches
REAL, MODEL, SEEN = "#33415c", "#e4572e", "#eef1f5"  # colors


@dataclass(frozen=True)
class Prediction:
    """An episode as the model told it.

    Attributes:
        obs: name -> (T+1, *shape) float32; images in [0, 1], vectors in the model's units.
        reward: (T,) float32 scaled reward of each action.
        num_context: observations that the model saw; it imagined the later ones.
    """

    obs: dict[str, np.ndarray]
    reward: np.ndarray
    num_context: int


@torch.no_grad()
def predict(agent: Agent, episode: Episode, num_context: int = 5, seed: int = 0) -> Prediction | None:
    """The episode decoded from the agent's model; None where the model cannot draw.

    Args:
        agent: left as it is, its random streams too.
        episode: as `Transform.episode` gives it.
        num_context: observations that are shown, at most T; then the recorded actions go on alone.
        seed: of the model's latents.
    Raises:
        UsageError: nothing is to be shown.
    """
    if num_context < 1:
        raise UsageError(f"num-context is {num_context}, wanted at least 1")
    num_context, model, device = min(num_context, len(episode)), agent.model, agent.device
    shown = {name: torch.tensor(value[:num_context], device=device) for name, value in episode.obs.items()}
    action, reward = (torch.tensor(value, device=device) for value in (episode.action, episode.reward))
    decoded, rewards = [], []
    with Stream(derive(seed, "open-loop"), device).use():
        belief = dream = model.start(1)
        for t in range(len(episode) + 1):
            if t < num_context:
                obs = {name: value[t : t + 1] for name, value in shown.items()}
                last = slice(t - 1, t) if t else slice(1)  # at first the model reads neither
                first = torch.tensor([t == 0], device=device)
                belief = model.observe(belief, action[last], reward[last], obs, first)
            else:
                belief = dream
            picture = model.decode(belief)
            if picture is None:
                return None
            decoded.append({name: value[0].float().cpu().numpy() for name, value in picture.items()})
            if t < len(episode):
                dream, paid, _ = model.step(belief, action[t : t + 1])
                rewards.append(paid[0].float().cpu().numpy())
    obs = {name: np.stack([step[name] for step in decoded]) for name in decoded[0]}
    return Prediction(obs, np.stack(rewards), num_context)


def picture(agent: Agent, episode: Episode, path: Path, num_context: int = 5, seed: int = 0) -> bool:
    """Draws `predict` beside what happened, as a PNG; False, and no file, where the model cannot draw.

    An image takes three rows: real, the model's, and their difference. A vector takes a plot for each of
    its first eight entries, and the reward takes one.

    Raises:
        StorageError: the file cannot be written.
        UsageError: nothing is to be shown to the model.
    """
    told = predict(agent, episode, num_context, seed)
    if told is None:
        return False
    write_picture(path, _draw(episode, told))
    return True


def _draw(episode: Episode, told: Prediction):
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    images = [name for name, value in told.obs.items() if is_image(value.shape[1:])]
    plots = [
        {f"{name}[{i}]": (episode.obs[name][:, i], line) for i, line in enumerate(value.T[:NUM_LINES])}
        for name, value in told.obs.items()
        if name not in images
    ]
    plots.append({"reward": (episode.reward, told.reward)})
    heights = [IMAGES_HEIGHT] * len(images)
    heights += [LINE_HEIGHT * math.ceil(len(entries) / LINES_A_ROW) for entries in plots]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, name in zip(parts, images, strict=False):
        _show_images(part, name, episode.obs[name] / 255, told.obs[name].clip(0, 1), told.num_context)
    for part, entries in zip(parts[len(images) :], plots, strict=True):
        _show_lines(part, entries, told.num_context)
    legend = [
        Line2D([], [], color=REAL, label="real"),
        Line2D([], [], color=MODEL, ls="--", label="model"),
        Line2D([], [], color=MODEL, label="from here on it sees no more"),
    ]
    figure.legend(handles=legend, loc="outside upper right", ncols=3, frameon=False)
    return figure


def _show_images(part, name: str, real: np.ndarray, told: np.ndarray, num_context: int) -> None:
    """Rows real, model, difference of (T+1, C, h, w) images in [0, 1], at some times."""
    times = _times(len(real), num_context)
    num_seen = int((times < num_context).sum())
    widths = np.insert(np.ones(NUM_COLUMNS), num_seen, 0.16)
    grid = part.add_gridspec(3, NUM_COLUMNS + 1, width_ratios=widths)
    for column, t in enumerate(times):
        place = column + (column >= num_seen)
        rows = (_rgb(real[t]), _rgb(told[t]), np.abs(real[t] - told[t]).mean(0))
        for row, (pixels, label) in enumerate(zip(rows, (name, "model", "difference"), strict=True)):
            axes = part.add_subplot(grid[row, place], xticks=[], yticks=[])
            axes.imshow(pixels, cmap="magma", vmin=0, vmax=1)
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(label)
            if row == 0:
                axes.set_title(f"t = {t}", fontsize=9, color=REAL if column < num_seen else MODEL)
    line = part.add_subplot(grid[:, num_seen])
    line.axvline(0.5, color=MODEL, lw=2)
    line.set(xlim=(0, 1))
    line.axis("off")


def _show_lines(part, entries: dict[str, tuple[np.ndarray, np.ndarray]], num_context: int) -> None:
    """A small plot of each (real, told) pair over time."""
    columns = min(len(entries), LINES_A_ROW)
    rows = math.ceil(len(entries) / columns)
    panels = part.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for axes, (title, (real, told)) in zip(panels, entries.items(), strict=False):
        axes.axvspan(0, num_context - 0.5, color=SEEN)
        axes.axvline(num_context - 0.5, color=MODEL, lw=1)
        axes.plot(real, color=REAL, lw=1.4)
        axes.plot(told, color=MODEL, lw=1.4, ls="--")
        axes.set_title(title, fontsize=9)
        axes.set(xlim=(0, max(len(real) - 1, num_context)))
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in panels[len(entries) :]:
        axes.axis("off")


def _times(length: int, num_context: int) -> np.ndarray:
    """Some of the times 0 to length - 1: the first and last that were seen, and evenly many later ones."""
    later = np.linspace(num_context, length - 1, NUM_COLUMNS - 2).round()
    return np.unique(np.append([0, num_context - 1], later).astype(int))


def _rgb(image: np.ndarray) -> np.ndarray:
    """(C, h, w) as (h, w, 3): grey of one channel, or the first three."""
    colors = image[:3] if len(image) >= 3 else image[:1].repeat(3, 0)
    return colors.transpose(1, 2, 0)
