"""Shows what the policy looks at: how its action changes when a part of an image is hidden.

Source: Zeiler and Fergus 2014, occlusion sensitivity. It needs nothing of the network but its actions.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.core.episode import Episode
from o2o.core.seeding import RandomStream, derive
from o2o.core.video import write_figure
from o2o.nn.world_model import State, index

NUM_SHOWN = 8  # steps of an episode
PATCHES = 16  # positions of the hidden square along each side of an image
HIDDEN = 2  # side of the square, in positions


@torch.no_grad()
def occlusion(agent: Agent, episode: Episode, steps: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Returns how far the action moves with each part of each image hidden.

    A square of an eighth of the image's sides is painted in the mean color of the image.

    Args:
        agent: agent, which stays unchanged together with its random streams.
        episode: episode from `Transform.episode`.
        steps: steps of the episode, in order.
        seed: seed of the model's latents.
    Returns:
        name of an image -> (len(steps), 16, 16) float32, the Euclidean distance of the two actions of the
        acting policy in [-1, 1]; entry (i, j) is the square whose first row is i sixteenths down.
    """
    obs, action, reward = _tensors(agent, episode)
    images, maps = agent.transform.spec.images, {}
    with RandomStream(derive(seed, "occlusion"), agent.device).use(), agent.precision():
        belief = agent.model.start(1)
        for t in range(steps[-1] + 1):
            previous = slice(t - 1, t) if t else slice(1)  # the model ignores both at the first step
            past = belief, action[previous], reward[previous], t == 0
            seen = {name: value[t : t + 1] for name, value in obs.items()}
            belief, chosen = _act(agent, *past, seen)
            for name in images if t in steps else ():
                hidden = {key: value.expand(PATCHES**2, *value.shape[1:]) for key, value in seen.items()}
                hidden[name] = _hide(seen[name][0])
                change = (_act(agent, *past, hidden)[1] - chosen).norm(dim=-1).view(PATCHES, PATCHES)
                maps.setdefault(name, []).append(change.cpu().numpy())
    return {name: np.stack(rows) for name, rows in maps.items()}


def _tensors(agent: Agent, episode: Episode) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    obs = {name: torch.tensor(value, device=agent.device) for name, value in episode.obs.items()}
    action, reward = (torch.tensor(value, device=agent.device) for value in (episode.action, episode.reward))
    return obs, action, reward


def _act(
    agent: Agent, belief: State, action: Tensor, reward: Tensor, begins: bool, obs: dict[str, Tensor]
) -> tuple[State, Tensor]:
    """Returns the beliefs and the policy's actions (N, A) after one past and N observations."""
    rows = torch.zeros(len(next(iter(obs.values()))), dtype=torch.int64, device=agent.device)
    first = torch.full_like(rows, begins, dtype=torch.bool)
    belief = agent.model.observe(index(belief, rows), action[rows], reward[rows], obs, first)
    return belief, agent.policy_chunk(agent.model.feature(belief), obs)[:, 0].float()


def plot_occlusion(agent: Agent, episode: Episode, path: Path) -> bool:
    """Writes a PNG of images of an episode, darker where hiding them hardly changes the action.

    Returns:
        False, without a file, if the observation has no image.
    Raises:
        StorageError: the file cannot be written.
    """
    if not agent.transform.spec.images:
        return False
    steps = np.unique(np.linspace(0, len(episode) - 1, NUM_SHOWN).astype(int)).tolist()
    write_figure(path, _draw(episode, steps, occlusion(agent, episode, steps)))
    return True


def _hide(image: Tensor) -> Tensor:
    """Returns (P*P, C, h, w) copies of an image (C, h, w), each with another square painted."""
    height, width = image.shape[-2:]
    copies = image.repeat(PATCHES**2, 1, 1, 1)
    color = image.float().mean((-2, -1), keepdim=True).to(image.dtype)
    for number in range(PATCHES**2):
        row, column = divmod(number, PATCHES)
        rows = slice(row * height // PATCHES, (row + HIDDEN) * height // PATCHES)
        columns = slice(column * width // PATCHES, (column + HIDDEN) * width // PATCHES)
        copies[number, :, rows, columns] = color
    return copies


def _draw(episode: Episode, steps: list[int], maps: dict[str, np.ndarray]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * len(steps), 3.5 * len(maps) + 0.3), layout="constrained")
    grid = figure.subplots(2 * len(maps), len(steps), squeeze=False)
    for number, (name, changes) in enumerate(maps.items()):
        top = max(float(changes.max()), 1e-9)
        for column, (t, change) in enumerate(zip(steps, changes, strict=True)):
            image = episode.obs[name][t][-3:].transpose(1, 2, 0) / 255
            image = np.broadcast_to(image[..., -1:], (*image.shape[:2], 3)) if image.shape[2] < 3 else image
            for row, light in enumerate((None, change / top)):
                axes = grid[2 * number + row, column]
                axes.imshow(image if light is None else image * _enlarge(light, image.shape[:2]))
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            grid[2 * number, column].set_title(f"step {t}", fontsize=9)
        grid[2 * number, 0].set_ylabel(name)
        label = f"light: hiding it moves\nthe action, at most {top:.2g}"
        grid[2 * number + 1, 0].set_ylabel(label, fontsize=8)
    return figure


def _enlarge(light: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns (h, w, 1) of (P, P), each square's value around its middle; at least 0.15."""
    wanted = torch.as_tensor(light)[None, None]
    shape = (size[0], size[1])
    moved = torch.nn.functional.pad(wanted, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]
    value = torch.nn.functional.interpolate((wanted + moved) / 2, shape, mode="bilinear")[0, 0].numpy()
    return np.maximum(value, 0.15)[..., None]
