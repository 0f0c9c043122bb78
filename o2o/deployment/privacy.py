"""Removes credentials, folders and host names of this machine from the metadata of a run.

Texts that say where a file lay keep the file's name, below the folder `ELSEWHERE`, which exists nowhere: so
the path stays absolute, and a reader of the run says that the file is missing. The text options of a real
robot (ports, addresses, token files) are left out altogether, because only their author knows what they mean.
"""

import re
import socket
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

ELSEWHERE = "/elsewhere"
LEFT_OUT = "..."
# fields and flags that name columns of a recording, such as the ROS topic /joint_states, and no files
COLUMNS = frozenset(
    ("obs", "action", "reward", "terminated", "truncated", "success", "ends", "image_layout", "image_range")
)
SECRET_NAME = re.compile(r"token|password|passwd|secret|credential|api_?key", re.IGNORECASE)
SECRETS = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|sk-|xox[abprs]-|AKIA)[\w-]{8,}|\beyJ[\w-]+\.[\w-]+\.[\w-]+"
    r"|\bBearer\s+\S+"
)
SECRET_PAIR = re.compile(
    r"(\b[\w-]*(?:token|password|passwd|secret|credential|api_?key)[\w-]*[\"']?\s*[:=]\s*)"
    r"(?:\"[^\"]*\"|'[^']*'|[^\s,}]+)",
    re.IGNORECASE,
)
URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://[^\s\"'<>]+", re.IGNORECASE)
ACCOUNT = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*")
ADDRESS = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:\.\d{1,3}){3}|[a-z0-9-]+(?:\.[a-z0-9-]+)+(?=:\d))(?::\d{1,5})?(?![\w.])",
    re.IGNORECASE,
)
PATH = re.compile(r"(?<![\w.:/*~-])(?:~[\w.-]*)?(?:/[^\s\"',;:*?<>|{}()\[\]/]+){2,}/?|[A-Za-z]:\\[^\s\"',;]+")
OWN_FOLDERS = re.compile(r"(?<![\w.:/*~-])(?:~|/(?:home|Users|root|mnt|media|tmp|work)(?=/))[^\s\"',;]*")
MIN_HOST = 4  # letters; a shorter host name is too likely to be part of a word


def clean_info(info: dict[str, Any], is_simulated: bool) -> dict[str, Any]:
    """Returns the content of `run.json`, or the meta of a checkpoint, as it may be published.

    Args:
        info: plain data, which stays as it is.
        is_simulated: whether the robot of the run is a simulator, whose text options say what it simulates.
    """
    cleaned = {name: _clean(value, name, is_simulated) for name, value in info.items()}
    words = info.get("command_line")
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        cleaned["command_line"] = clean_words(words, is_simulated)
    return cleaned


def clean_words(words: Sequence[str], is_simulated: bool) -> list[str]:
    """Returns a command line as it may be published; what is left out reads `...`."""
    result, flag = [], ""
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            result.append(flag + (equals + _clean_value(flag, value, is_simulated) if equals else ""))
        else:
            result.append(_clean_value(flag, word, is_simulated))
    return result


def clean_text(text: str, is_column: bool = False) -> str:
    """Returns a text without credentials, host names and folders of this machine.

    Args:
        text: any text.
        is_column: whether it names columns of a recording, which may look like paths.
    """
    text = SECRETS.sub(LEFT_OUT, SECRET_PAIR.sub(rf"\1{LEFT_OUT}", text))
    text = URL.sub(rf"\1://{LEFT_OUT}", text)
    text = ADDRESS.sub("HOST", ACCOUNT.sub("USER@HOST", text))
    for name in _host_names():
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "HOST", text)
    if is_column:
        return OWN_FOLDERS.sub(_elsewhere, text)
    if re.match(r"/|~|[A-Za-z]:\\", text) and not any(mark in text for mark in "\"'{}"):
        return _moved(text)  # the whole text is a path, which may hold spaces
    return PATH.sub(_elsewhere, text)


def _clean(value: Any, name: str, is_simulated: bool) -> Any:
    if name == "from_run":
        return ""
    if name == "robot_options" and isinstance(value, dict) and not is_simulated:
        return {key: each for key, each in value.items() if not _holds_text(each)}
    if isinstance(value, dict):
        return {key: _clean(each, key, is_simulated) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(each, name, is_simulated) for each in value]
    if not isinstance(value, str):
        return value
    return LEFT_OUT if value and SECRET_NAME.search(name) else clean_text(value, name in COLUMNS)


def _clean_value(flag: str, value: str, is_simulated: bool) -> str:
    """Returns the value of a flag as it may be published."""
    is_number = re.fullmatch(r"-?[\d.]+(?:e-?\d+)?", value) is not None
    is_of_robot = flag.startswith("--robot.") and not is_simulated
    if SECRET_NAME.search(flag) or (is_of_robot and not is_number):
        return LEFT_OUT
    return clean_text(value, flag.rpartition(".")[2].replace("-", "_") in COLUMNS)


def _holds_text(value: Any) -> bool:
    if isinstance(value, dict):
        return True
    return any(map(_holds_text, value)) if isinstance(value, (list, tuple)) else isinstance(value, str)


def _elsewhere(match: re.Match) -> str:
    return _moved(match.group())


def _moved(path: str) -> str:
    """Returns a path of this machine as one that exists nowhere, with the same file name."""
    name = PurePosixPath(path.replace("\\", "/")).name
    return f"{ELSEWHERE}/{name}" if name not in ("", "~") else ELSEWHERE


def _host_names() -> list[str]:
    """Returns the names of this machine, the longer first, that are no everyday words."""
    name = socket.gethostname()
    names = {name, name.partition(".")[0]} - {"localhost"}
    return sorted((one for one in names if len(one) >= MIN_HOST), key=len, reverse=True)
