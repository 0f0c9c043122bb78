"""Finds topics and fields of a bag by name, describes them, and suggests the flags that read them."""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from o2o.core.errors import DataError, UsageError
from o2o.core.plugins import did_you_mean
from o2o.data.formats import bag_images
from o2o.data.formats.bag_index import BagIndex, Topic
from o2o.data.formats.ros_messages import VARIABLE, MessageType

MAX_LISTED, MAX_OBS = 24, 8  # topics that are described, and observations that are suggested
MAX_VALUES = 100  # numbers of a message that may be an observation unasked, such as poses and not scans
COMMANDS = ("action", "command", "cmd", "target", "desired", "goal", "control", "ctrl", "leader")
REWARDS = ("reward",)
NO_SENSORS = (  # types that say nothing of what the robot senses
    *("rosgraph_msgs/Log", "rosgraph_msgs/Clock", "rcl_interfaces/Log", "rcl_interfaces/ParameterEvent"),
    *("tf2_msgs/TFMessage", "tf/tfMessage", "sensor_msgs/CameraInfo", "diagnostic_msgs/DiagnosticArray"),
)
JOINTS, JOINT_FIELDS = "sensor_msgs/JointState", ("position", "velocity")


@dataclass(frozen=True)
class Source:
    """What a name stands for.

    Attributes:
        topic: the topic.
        type: type of its messages.
        paths: fields whose numbers follow each other; empty for an image.
        text: the name as typed.
    """

    topic: Topic
    type: MessageType
    paths: tuple[str, ...]
    text: str


def find(index: BagIndex, text: str, what: str) -> Source:
    """Finds the topic and fields of a name `TOPIC` or `TOPIC.FIELD`.

    A field that holds others, such as a pose, stands for all their numbers, and a topic alone for all numbers
    of its messages besides headers and layouts.

    Args:
        index: the bag.
        text: the name.
        what: what it is for, for the error.
    Raises:
        UsageError: there is no such topic or field.
        DataError: its type cannot be read.
    """
    named = [name for name in index.topics if text == name or text.startswith(f"{name}.")]
    if not named:
        known = list(index.topics)
        raise UsageError(
            f"{index.path}: {what} {text!r} not found; {did_you_mean(text, known)}{describe_topics(index)}"
        )
    topic = index.topics[max(named, key=len)]
    kind, field = index.message_type(topic), text[len(topic.name) + 1 :]
    if not field and bag_images.is_image(kind.name):
        return Source(topic, kind, (), text)
    paths = tuple(p for p in kind.numbers if not field or p == field or p.startswith(f"{field}."))
    if not paths:
        have = ", ".join(list(kind.numbers)[:MAX_LISTED]) or "none"
        raise UsageError(f"{index.path}: {what} {text!r} not found; {topic.type_name} has the numbers {have}")
    return Source(topic, kind, paths, text)


def usual_names(index: BagIndex) -> dict[str, Source]:
    """Returns `TOPIC` or `TOPIC.FIELD` of everything that can be read.

    Images and messages of a fixed number of numbers stand under their topic, arrays under their field.
    """
    names = {}
    for topic in index.topics.values():
        try:
            kind = index.message_type(topic)
        except DataError:
            continue
        if not topic.num_messages or kind.name in NO_SENSORS:
            continue
        if bag_images.is_image(kind.name):
            names[topic.name] = Source(topic, kind, (), topic.name)
        elif any(step.count == VARIABLE for step in kind.numbers.values()) or len(kind.numbers) == 1:
            for path in kind.numbers:
                text = f"{topic.name}.{path}"
                names[text] = Source(topic, kind, (path,), text)
        elif kind.numbers:
            names[topic.name] = Source(topic, kind, tuple(kind.numbers), topic.name)
    return names


def count_numbers(index: BagIndex, source: Source) -> dict[str, int]:
    """Returns path -> numbers in the first message."""
    data = index.messages.read(source.topic.places[0])
    return {path: len(value) for path, value in source.type.read(data, source.paths).items()}


def guess_obs(index: BagIndex, without: Iterable[str] = ()) -> dict[str, str]:
    """Returns short name -> name of the observations: images, joints, and messages of a few numbers.

    Args:
        index: the bag.
        without: names of actions and rewards.
    """
    others = [find(index, text, "action").topic.name for text in without]
    chosen = {}
    for text, source in usual_names(index).items():
        if source.topic.name in others or _rank(source.topic.name, (*COMMANDS, *REWARDS)) is not None:
            continue
        if source.type.name == JOINTS and source.paths[0] not in JOINT_FIELDS:
            continue
        if source.paths and not _is_small(index, source):
            continue
        chosen[text] = source
    return _short_names(chosen)


def _is_small(index: BagIndex, source: Source) -> bool:
    try:
        return 0 < sum(count_numbers(index, source).values()) <= MAX_VALUES
    except DataError:
        return False


def _short_names(sources: Mapping[str, Source]) -> dict[str, str]:
    """Returns a name for the model -> name in the bag, without what all cameras and joints have in theirs."""
    names: dict[str, str] = {}
    for text, source in sources.items():
        base = source.topic.name
        if not source.paths:
            base = re.sub(r"(?<=\w)/(image(_\w+)?|compressed(Depth)?|color|rgb)(?=/|$)", "", base)
        fields = source.paths if len(source.paths) == 1 else ()
        short = "_".join([base.strip("/").replace("/", "_"), *fields])
        names[short if short not in names else text] = text
    return names


def guess_action(index: BagIndex) -> str:
    """Returns the name of what is most likely the action; empty if no topic is named as one."""
    ranked = []
    for text, source in usual_names(index).items():
        rank = _rank(source.topic.name, COMMANDS)
        if rank is not None and source.paths and source.topic.num_messages > 1 and _is_small(index, source):
            ranked.append((rank, -source.topic.num_messages, text))
    return min(ranked)[2] if ranked else ""


def _guess_reward(index: BagIndex) -> str:
    names = usual_names(index).items()
    return next((n for n, s in names if len(s.paths) == 1 and _rank(s.topic.name, REWARDS) is not None), "")


def _rank(name: str, words: tuple[str, ...]) -> int | None:
    return next((rank for rank, word in enumerate(words) if word in name.lower()), None)


def describe(index: BagIndex) -> str:
    """Returns the topics of a bag, and the flags that read it, in one line."""
    action = guess_action(index)
    if action:
        return f"{describe_topics(index)}; to read it: {suggest_flags(index, action)}"
    numbers = [n for n, s in usual_names(index).items() if s.paths and _is_small(index, s)]
    if not numbers:
        return f"{describe_topics(index)}; none has messages of a few numbers, as actions are"
    flags = suggest_flags(index, numbers[-1])
    return f"{describe_topics(index)}; none is named as a command: name it, such as {flags}"


def suggest_flags(index: BagIndex, action: str) -> str:
    """Returns flags that read the bag, as typed in a shell."""
    obs, reward = guess_obs(index, [action]), _guess_reward(index)
    words = ["--dataset.action", action]
    words += ["--dataset.reward", reward] if reward else []
    words += ["--dataset.obs", *(f"{n}={text}" for n, text in list(obs.items())[:MAX_OBS])] if obs else []
    return " ".join(map(shlex.quote, words))


def describe_topics(index: BagIndex) -> str:
    """Lists the topics with their types, numbers of messages, rates, and what a message holds."""
    topics = list(index.topics.values())
    listed = [_describe_topic(index, topic) for topic in topics[:MAX_LISTED]]
    more = [f"{len(topics) - MAX_LISTED} more"] if len(topics) > MAX_LISTED else []
    return f"it holds the topics {', '.join([*listed, *more])}" if listed else "it holds no topics"


def _describe_topic(index: BagIndex, topic: Topic) -> str:
    rate = f" at {topic.hz:.3g} Hz" if topic.hz else ""
    head = f"{topic.name} {topic.type_name} ({topic.num_messages} messages{rate}"
    try:
        kind = index.message_type(topic)
        content = _describe_content(index, topic, kind) if topic.num_messages else ""
    except DataError:
        content = f"not readable, {topic.serialization or 'of no encoding'}"
    return f"{head}: {content})" if content else f"{head})"


def _describe_content(index: BagIndex, topic: Topic, kind: MessageType) -> str:
    if kind.name in NO_SENSORS or not kind.numbers:
        return ""
    if bag_images.is_image(kind.name):
        image = bag_images.open_column(index, topic, kind, np.zeros(1, int), index.held_bytes)
        return f"{' x '.join(map(str, image.row_shape))} {image.dtype}"
    counts = count_numbers(index, Source(topic, kind, tuple(kind.numbers), topic.name))
    listed = [path if num == 1 else f"{path}[{num}]" for path, num in list(counts.items())[:MAX_OBS]]
    return " ".join([*listed, *(["..."] if len(counts) > MAX_OBS else [])])
