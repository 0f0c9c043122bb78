"""Tests the FOWM reader: the episodes of a pickle, and that a pickle is never executed."""

import collections
import copyreg
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import fowm, safe_pickle
from o2o.data.formats.fowm import read
from o2o.data.formats.lazy_array import LazyArray, parse_request


def table(num: int = 6, size: int = 84, **more) -> dict:
    """Two episodes of three steps; row i has state (i, -i), next state i + 1, and all its pixels are i."""
    count = np.arange(num, dtype=np.float32)
    state = np.stack([count, -count], 1)
    rgb = np.full((num, 3, size, size), count.astype(np.uint8)[:, None, None, None])
    return {
        "observations": {"rgb": rgb, "state": state},
        "next_observations": {"rgb": rgb + 1, "state": state + np.float32([1, -1])},
        "actions": np.full((num, 4), 0.5, np.float32) * count[:, None],
        "rewards": count,
        "dones": np.isin(count, [2, 5]),
        "masks": np.ones(num, np.float32),
    } | more


def write(path, content, protocol: int = 4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def states(recording) -> list[list[float]]:
    return [e.obs["state"][:, 0].tolist() for e in recording.episodes]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_episodes(tmp_path, protocol):
    path = write(tmp_path / "buffer.pkl", table(), protocol)
    assert fowm.matches(path) == (protocol >= 2)  # older protocols have no magic number
    recording = read(path)
    assert states(recording) == [[0, 1, 2, 3], [3, 4, 5, 6]]
    for episode, pixels in zip(recording.episodes, ([0, 1, 2, 3], [3, 4, 5, 6]), strict=True):
        assert isinstance(episode.obs["rgb"], LazyArray) and episode.obs["rgb"].shape == (4, 3, 84, 84)
        assert np.asarray(episode.obs["rgb"])[:, 1, 5, 7].tolist() == pixels
        assert (episode.terminated, episode.truncated, episode.last_obs_known) == (False, True, True)
    assert recording.episodes[1].action[:, 3].tolist() == [1.5, 2, 2.5]
    assert recording.episodes[1].reward.tolist() == [3, 4, 5]


def test_images_are_read_when_indexed(tmp_path):
    path = write(tmp_path / "buffer.pkl", table())
    content = safe_pickle.load(path)["observations"]["rgb"].value
    assert isinstance(content, safe_pickle.StoredArray) and content.nbytes == 6 * 3 * 84 * 84
    episode = read(path).episodes[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="has changed since"):
        np.asarray(episode.obs["rgb"])


def test_mask_of_zero_is_terminal_and_done_is_not(tmp_path):
    masks = np.ones(6, np.float32)
    masks[2] = 0
    first, second = read(write(tmp_path / "a.pkl", table(masks=masks))).episodes
    assert (first.terminated, second.terminated) == (True, False)
    assert first.last_obs_known and first.obs["state"][-1].tolist() == [3, -3]


def test_dones_without_masks_are_not_terminal_and_log_a_warning(tmp_path, caplog):
    content = table()
    del content["masks"]
    assert not any(e.terminated for e in read(write(tmp_path / "a.pkl", content)).episodes)
    assert "has no masks" in caplog.text


def test_jumps_end_episodes_like_dones(tmp_path):
    content = table()
    content["next_observations"]["state"] = content["next_observations"]["state"].copy()
    content["next_observations"]["state"][3, 0] = 9
    assert states(read(write(tmp_path / "a.pkl", content))) == [[0, 1, 2, 3], [3, 9], [4, 5, 6]]
    del content["dones"], content["masks"]
    assert states(read(write(tmp_path / "b.pkl", content))) == [[0, 1, 2, 3, 9], [4, 5, 6]]


def test_singular_names_single_arrays_and_columns_are_read(tmp_path):
    content = table()
    content = {name.removesuffix("s"): value for name, value in content.items()}
    content["observation"], content["next_observation"] = (
        content[f"{prefix}observation"]["state"] for prefix in ("", "next_")
    )
    content["reward"], content["done"] = content["reward"][:, None], content["done"][:, None]
    recording = read(write(tmp_path / "a.pkl", content))
    assert states(recording) == [[0, 1, 2, 3], [3, 4, 5, 6]] and recording.episodes[0].reward.shape == (3,)


def test_lists_of_numbers_and_of_images_are_tables(tmp_path):
    content = table(size=40)
    content["rewards"] = [0.0, 1, True, np.float32(3), np.float64(4), 5]
    content["dones"] = content["dones"].tolist()
    content["observations"]["rgb"] = list(content["observations"]["rgb"])
    first, second = read(write(tmp_path / "a.pkl", content)).episodes
    assert isinstance(second.obs["rgb"], LazyArray) and first.reward.tolist() == [0, 1, 1]
    assert np.asarray(second.obs["rgb"])[:, 0, 0, 0].tolist() == [3, 4, 5, 6]
    shared = [content["observations"]["rgb"][0]] * 6
    content["observations"]["rgb"] = shared
    with pytest.raises(DataError, match="contains the same array several times"):
        read(write(tmp_path / "b.pkl", content))


def test_last_step_without_next_obs_is_dropped_unless_terminal(tmp_path):
    content = table(masks=np.float32([1, 1, 0, 1, 1, 1]))
    del content["next_observations"]
    first, second = read(write(tmp_path / "a.pkl", content)).episodes
    assert states(read(tmp_path / "a.pkl")) == [[0, 1, 2, 2], [3, 4, 5]]
    assert (first.last_obs_known, second.last_obs_known) == (False, True)
    assert np.asarray(first.obs["rgb"])[:, 0, 0, 0].tolist() == [0, 1, 2, 2]


def test_fortran_order_and_other_byte_order_are_read(tmp_path):
    count = np.arange(6000.0)
    content = table() | {"actions": np.asfortranarray(count.reshape(6, 1000))}
    content["rewards"] = np.arange(6, dtype=">f8")
    episode = read(write(tmp_path / "a.pkl", content, 2)).episodes[1]
    assert episode.action[0, :3].tolist() == [3000, 3001, 3002] and episode.reward.tolist() == [3, 4, 5]


def test_names_are_mapped_and_memory_budget_is_checked(tmp_path):
    path = write(tmp_path / "a.pkl", table(goal=np.repeat([[7.0], [8.0]], 3, 0), other=np.ones((6, 1))))
    request = parse_request(["pose=state", "goal"], action="other", reward="masks")
    first, second = read(path, request).episodes
    assert list(first.obs) == ["pose", "goal"] and second.obs["goal"][:, 0].tolist() == [8, 8, 8, 8]
    assert first.action.shape == (3, 1) and first.reward.tolist() == [1, 1, 1]
    with pytest.raises(UsageError, match=r"'stat' not found; did you mean 'state'\?"):
        read(path, parse_request(["stat"]))
    with pytest.raises(DataError, match="the budget is"):
        read(path, parse_request([], budget=100))


def test_old_numpy_module_names_are_accepted(tmp_path):
    path = tmp_path / "old.pkl"
    for protocol in (2, 4):
        new = pickle.dumps(table(), protocol)
        old = new.replace(b"numpy._core.", b"numpy.core.").replace(
            b"\x8c\x16numpy.core", b"\x8c\x15numpy.core"
        )
        path.write_bytes(old)
        assert (old != new) and states(read(path)) == [[0, 1, 2, 3], [3, 4, 5, 6]]


class Call:
    """An object that pickles as a function call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call

    def __call__(self):
        """Makes the object callable, which pickling a call requires."""


class Thing:
    """An object that pickles as an instance of its class."""


OWN = f"{Thing.__module__}.Thing"
RECONSTRUCT = np.zeros(1).__reduce__()[0]
ATTACKS = {
    "posix.system": Call(os.system, "touch {}"),
    "builtins.eval": Call(eval, "open('{}', 'w')"),
    "builtins.getattr": Call(Call(getattr, np.ndarray, "tofile"), "{}"),
    "copyreg._reconstructor": Call(copyreg._reconstructor, np.ndarray, object, None),
    "copyreg.__newobj__|tests.test_fowm.Thing|test_fowm.Thing": Thing(),
    "a call of numpy._core.multiarray._reconstruct": Call(RECONSTRUCT, np.dtype, (0,), b"b"),
    "a call of numpy.ndarray": Call(np.ndarray, (10**9,), "f8"),
    "numpy.dtype('O8')": np.array([[1], "x"], dtype=object),
    "numpy.dtype('V8')": np.zeros(2, [("a", "f4"), ("b", "f4")]),
    "numpy.dtype('M8')": np.array(["2020-01-01"], "M8[D]"),
    "numpy.load": Call(np.load, "{}"),
    "collections.deque": collections.deque(),
    "io.BytesIO|_io.BytesIO": Call(io.BytesIO, b""),
}


@pytest.mark.parametrize("protocol", (0, 2, 4, 5))
@pytest.mark.parametrize("name", ATTACKS)
def test_anything_else_is_refused_by_name_and_never_executed(tmp_path, name, protocol):
    marker = tmp_path / "executed"
    text = pickle.dumps(table(infos=ATTACKS[name]), protocol)
    path = tmp_path / "a.pkl"
    path.write_bytes(text.replace(b"{}", str(marker).encode()) if protocol == 0 else text)
    with pytest.raises(DataError, match=" refused; ") as caught:
        read(path)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line and not marker.exists()
    if protocol <= 2:
        line = line.replace("__builtin__", "builtins").replace("copy_reg", "copyreg")  # the names in Python 2
    if protocol == 0:
        name += "|copyreg._reconstructor" * isinstance(ATTACKS[name], Thing)
    assert any(one in line for one in name.split("|"))


def assemble(*opcodes) -> bytes:
    return b"\x80\x04" + b"".join(opcodes) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


BOMBS = {
    "false length of bytes": b"\x8e" + struct.pack("<Q", 2**62),
    "false length of text": b"\x8d" + struct.pack("<Q", 2**62),
    "false length of a number": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "large memo index": b"Nr" + struct.pack("<I", 2**32 - 1),
    "repeated doubling": b"]" + b"2\x86" * 200,
    "array larger than its bytes": text("numpy.core.numeric") + text("_frombuffer") + b"\x93"
    + b"(C\x01a" + text("numpy") + text("dtype") + b"\x93" + text("f8") + b"\x85R"
    + b"J" + struct.pack("<i", 2**31 - 1) + b"\x85" + text("C") + b"tR",
    "text encoded repeatedly": text("_codecs") + text("encode") + b"\x93" + b"q\x00"
    + b"X" + struct.pack("<I", 3000) + b"x" * 3000 + text("latin1") + b"\x86q\x01"
    + b"h\x00h\x01R" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_pickle_with_false_lengths_is_refused(tmp_path, kind):
    path = tmp_path / "a.pkl"
    path.write_bytes(assemble(BOMBS[kind]))
    with pytest.raises(DataError) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (table(actions=np.zeros((5, 4))), "columns differ in length: actions 5, rewards 6"),
        (table(masks=np.full(6, 0.5)), "'masks' is 0.5 in row 0, wanted 0 or 1"),
        (table(rewards=np.full(6, np.nan)), "'rewards' is not finite"),
        ({"obs": np.zeros(3)}, "has no 'observations', 'actions', 'rewards', 'dones'; it has obs"),
        ([1, 2], "holds a list, wanted a dict"),
        (
            table(actions=[np.zeros(3), np.zeros(4)]),
            "'actions' is a list of items of different types or shapes",
        ),
    ],
)
def test_broken_tables_raise_a_one_line_error(tmp_path, content, match):
    with pytest.raises(DataError, match=match) as caught:
        read(write(tmp_path / "a.pkl", content))
    assert "\n" not in str(caught.value)


def test_every_known_opcode_exists():
    known = set(safe_pickle.VALUES) | set(safe_pickle.LENGTHS) | set(safe_pickle.CONSTANTS)
    assert known < {code.name for code in pickletools.opcodes}


def test_truncated_pickles_raise_a_one_line_error(tmp_path):
    whole = pickle.dumps(table(size=20), 4)
    path = tmp_path / "a.pkl"
    for length in range(0, len(whole), len(whole) // 150):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
