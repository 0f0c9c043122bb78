"""Predicts an episode with a world model that sees a few observations and then only the actions."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.core.episode import Episode
from o2o.core.errors import UsageError
from o2o.core.seeding import RandomStream, derive
from o2o.core.spec import is_image
from o2o.core.video import write_figure
from o2o.inspect.charts.chart import DATA, MODEL

NUM_COLUMNS, NUM_LINES, LINES_PER_ROW = 10, 8, 4
WIDTH, IMAGES_HEIGHT, LINE_HEIGHT = 12.0, 3.7, 1.6  # inches
CONTEXT = "#eef1f5"  # color of the observations that the model sees


@dataclass(frozen=True)
class Prediction:
    """An episode as the model predicts it.

    Attributes:
        obs: name -> (T+1, *shape) float32; images in [0, 1], vectors in the model's units.
        reward: (T,) float32 scaled reward of each action.
        num_context: number of observations that the model saw; it imagined the later ones.
    """

    obs: dict[str, np.ndarray]
    reward: np.ndarray
    num_context: int


@torch.no_grad()
def predict(agent: Agent, episode: Episode, num_context: int = 5, seed: int = 0) -> Prediction | None:
    """Returns the episode as the agent's model predicts it; None if the model has no decoder.

    Args:
        agent: agent, which stays unchanged together with its random streams.
        episode: episode from `Transform.episode`.
        num_context: number of observations that the model sees, at most T; afterwards it gets the recorded
            actions only.
        seed: seed of the model's latents.
    Raises:
        UsageError: `num_context` is less than 1.
    """
    if num_context < 1:
        raise UsageError(f"num_context is {num_context}, wanted at least 1")
    num_context, model, device = min(num_context, len(episode)), agent.model, agent.device
    context = {name: torch.tensor(value[:num_context], device=device) for name, value in episode.obs.items()}
    action, reward = (torch.tensor(value, device=device) for value in (episode.action, episode.reward))
    decoded, rewards = [], []
    with RandomStream(derive(seed, "open-loop"), device).use():
        belief = imagined = model.start(1)
        for t in range(len(episode) + 1):
            if t < num_context:
                obs = {name: value[t : t + 1] for name, value in context.items()}
                previous = slice(t - 1, t) if t else slice(1)  # the model ignores both at the first step
                first = torch.tensor([t == 0], device=device)
                belief = model.observe(belief, action[previous], reward[previous], obs, first)
            else:
                belief = imagined
            decoded_obs = model.decode(belief)
            if decoded_obs is None:
                return None
            decoded.append({name: value[0].float().cpu().numpy() for name, value in decoded_obs.items()})
            if t < len(episode):
                imagined, step_reward, _ = model.step(belief, action[t : t + 1])
                rewards.append(step_reward[0].float().cpu().numpy())
    obs = {name: np.stack([step[name] for step in decoded]) for name in decoded[0]}
    return Prediction(obs, np.stack(rewards), num_context)


def plot_prediction(agent: Agent, episode: Episode, path: Path, num_context: int = 5, seed: int = 0) -> bool:
    """Writes a PNG that compares the result of `predict` with the recorded episode.

    An image observation has three rows: recorded, predicted and their difference. A vector observation has
    one plot for each of its first eight entries, and the reward has one plot.

    Args:
        path: file of the PNG.
        agent, episode, num_context, seed: arguments of `predict`.
    Returns:
        False, without a file, if the model has no decoder.
    Raises:
        StorageError: the file cannot be written.
        UsageError: `num_context` is less than 1.
    """
    prediction = predict(agent, episode, num_context, seed)
    if prediction is None:
        return False
    write_figure(path, _draw(episode, prediction))
    return True


def _draw(episode: Episode, prediction: Prediction):
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    images = [name for name, value in prediction.obs.items() if is_image(value.shape[1:])]
    plots = [
        {f"{name}[{i}]": (episode.obs[name][:, i], line) for i, line in enumerate(value.T[:NUM_LINES])}
        for name, value in prediction.obs.items()
        if name not in images
    ]
    plots.append({"reward": (episode.reward, prediction.reward)})
    heights = [IMAGES_HEIGHT] * len(images)
    heights += [LINE_HEIGHT * math.ceil(len(entries) / LINES_PER_ROW) for entries in plots]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, name in zip(parts, images, strict=False):
        recorded, predicted = episode.obs[name] / 255, prediction.obs[name].clip(0, 1)
        _show_images(part, name, recorded, predicted, prediction.num_context)
    for part, entries in zip(parts[len(images) :], plots, strict=True):
        _show_lines(part, entries, prediction.num_context)
    legend = [
        Line2D([], [], color=DATA, label="recorded"),
        Line2D([], [], color=MODEL, ls="--", label="model"),
        Line2D([], [], color=MODEL, label="end of the observations that the model sees"),
    ]
    figure.legend(handles=legend, loc="outside upper right", ncols=3, frameon=False)
    return figure


def _show_images(part, name: str, recorded: np.ndarray, predicted: np.ndarray, num_context: int) -> None:
    """Draws rows of recorded and predicted (T+1, C, h, w) images in [0, 1] and of their difference."""
    times = _select_times(len(recorded), num_context)
    num_context_columns = int((times < num_context).sum())
    widths = np.insert(np.ones(NUM_COLUMNS), num_context_columns, 0.16)
    grid = part.add_gridspec(3, NUM_COLUMNS + 1, width_ratios=widths)
    for column, t in enumerate(times):
        cell = column + (column >= num_context_columns)
        difference = np.abs(recorded[t] - predicted[t]).mean(0)
        rows = (_rgb(recorded[t]), _rgb(predicted[t]), difference)
        for row, (pixels, label) in enumerate(
            zip(rows, (f"{name}, recorded", "model", "difference"), strict=True)
        ):
            axes = part.add_subplot(grid[row, cell], xticks=[], yticks=[])
            axes.imshow(pixels, cmap="magma", vmin=0, vmax=1)
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(label)
            if row == 0:
                axes.set_title(f"t = {t}", fontsize=9, color=DATA if column < num_context_columns else MODEL)
    separator = part.add_subplot(grid[:, num_context_columns])
    separator.axvline(0.5, color=MODEL, lw=2)
    separator.set(xlim=(0, 1))
    separator.axis("off")


def _show_lines(part, entries: dict[str, tuple[np.ndarray, np.ndarray]], num_context: int) -> None:
    """Draws a small plot of each (recorded, predicted) pair over time."""
    columns = min(len(entries), LINES_PER_ROW)
    rows = math.ceil(len(entries) / columns)
    panels = part.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for axes, (title, (recorded, predicted)) in zip(panels, entries.items(), strict=False):
        axes.axvspan(0, num_context - 0.5, color=CONTEXT)
        axes.axvline(num_context - 0.5, color=MODEL, lw=1)
        axes.plot(recorded, color=DATA, lw=1.4)
        axes.plot(predicted, color=MODEL, lw=1.4, ls="--")
        axes.set_title(title, fontsize=9)
        axes.set(xlim=(0, max(len(recorded) - 1, num_context)))
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in panels[len(entries) :]:
        axes.axis("off")


def _select_times(length: int, num_context: int) -> np.ndarray:
    """Returns the first and last context step and evenly spaced later steps, of steps 0 to length - 1."""
    later = np.linspace(num_context, length - 1, NUM_COLUMNS - 2).round()
    return np.unique(np.append([0, num_context - 1], later).astype(int))


def _rgb(image: np.ndarray) -> np.ndarray:
    """Returns an image (C, h, w) as (h, w, 3): its first three channels, or one channel as gray."""
    channels = image[:3] if len(image) >= 3 else image[:1].repeat(3, 0)
    return channels.transpose(1, 2, 0)
