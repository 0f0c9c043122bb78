"""Presents the images of a bag's topic, raw or compressed, as a column of images."""

from dataclasses import dataclass

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats import image_codec
from o2o.data.formats.bag_index import BagIndex, Messages, Topic
from o2o.data.formats.column import ColumnBase
from o2o.data.formats.lazy_array import ReadBlock
from o2o.data.formats.ros_messages import TEXT, VARIABLE, MessageType, texts_of

RAW, COMPRESSED = "sensor_msgs/Image", "sensor_msgs/CompressedImage"
RAW_NUMBERS = ("height", "width", "is_bigendian", "step")
RAW_FIELDS = {**dict.fromkeys(RAW_NUMBERS, 1), "encoding": 1, "data": VARIABLE}  # field -> count
COMPRESSED_FIELDS = {"format": 1, "data": VARIABLE}
REVERSED = ("bgr8", "bgra8")
ENCODINGS = {  # of raw images -> dtype, channels
    **{"rgb8": ("u1", 3), "bgr8": ("u1", 3), "rgba8": ("u1", 4), "bgra8": ("u1", 4), "8UC3": ("u1", 3)},
    **{"mono8": ("u1", 1), "8UC1": ("u1", 1), "mono16": ("u2", 1), "16UC1": ("u2", 1), "32FC1": ("f4", 1)},
}
DEPTH_HEADER = 12  # bytes before the PNG file of a compressed depth image


@dataclass(frozen=True, eq=False)
class ImageColumn(ColumnBase):
    """Images of messages, read each time they are indexed.

    Attributes:
        messages: of the bag.
        type: of the messages.
        places: (N, 3) places of the messages; see `Topic`.
        row_shape: (H, W, C).
        dtype: uint8; uint16 for depth in the camera's unit, mostly millimeters; float32 for depth in meters.
        row_bytes: main memory that reading an image takes, besides the image.
        label: bag and topic, for errors.
    """

    messages: Messages
    type: MessageType
    places: np.ndarray
    row_shape: tuple[int, ...]
    dtype: np.dtype
    row_bytes: int
    label: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.places), *self.row_shape)

    @property
    def chunk_bytes(self) -> int:
        return self.row_bytes

    @property
    def held_bytes(self) -> int:
        return self.places.nbytes

    def __getitem__(self, key) -> np.ndarray:
        rows = np.arange(len(self))[key]
        images = np.empty((*np.shape(rows), *self.row_shape), self.dtype)
        for index in np.ndindex(np.shape(rows)):
            images[index] = self._decode(int(rows[index]))
        return images

    def _decode(self, row: int) -> np.ndarray:
        label = f"{self.label} at step {row}"
        data = self.messages.read(self.places[row])
        if self.type.name == COMPRESSED:
            return image_codec.decode(_encoded(self.type, data, label), self.row_shape, label, self.dtype)
        return _raw(self.type, data, label, (self.row_shape, self.dtype))


def is_image(name: str) -> bool:
    """Whether messages of this type are images."""
    return name in (RAW, COMPRESSED)


def open_column(
    index: BagIndex, topic: Topic, kind: MessageType, rows: np.ndarray, held: float
) -> ImageColumn:
    """Returns the images of a topic.

    Args:
        index: the bag.
        topic: its messages.
        kind: type of the messages, for which `is_image` is true.
        rows: (N,) numbers of the messages, at least one.
        held: bytes of the budget that are taken.
    Raises:
        DataError: the first image is broken, not supported, or larger than the budget.
    """
    label, places = f"{index.path}: {topic.name!r}", topic.places[rows]
    _check_type(kind, label)
    largest = index.chunk_bytes + 2 * int(places[:, 2].max())
    index.request.check_budget(held, index.path, ReadBlock(largest, f"a message of {topic.name!r}"))
    data = index.messages.read(places[0])
    if kind.name == COMPRESSED:
        image = _encoded(kind, data, label)
        shape, dtype = image_codec.image_shape(image, label), image_codec.pixel_type(image, label)
        largest += image_codec.decoding_bytes(shape)
    else:
        first = _raw(kind, data, label, None)
        shape, dtype = first.shape, first.dtype
    return ImageColumn(index.messages, kind, places, shape, dtype, largest, label)


def _check_type(kind: MessageType, label: str) -> None:
    """Checks that a type has the fields of images: a bag brings its own definitions.

    Raises:
        DataError: it has not.
    """
    have = {step.path: (step.dtype == TEXT, step.count) for step in kind.steps}
    fields = COMPRESSED_FIELDS if kind.name == COMPRESSED else RAW_FIELDS
    for name, count in fields.items():
        is_bytes = name != "data" or kind.numbers.get(name, kind.steps[0]).dtype == "u1"
        if have.get(name) != (name in ("encoding", "format"), count) or not is_bytes:
            raise DataError(f"{label}: the bag defines {kind.name} without the field {name!r} of images")


def _encoded(kind: MessageType, data: bytes, label: str) -> bytes:
    """Returns the JPEG or PNG file in a message."""
    found = kind.read(data, ("format", "data"))
    form, image = "".join(texts_of(found["format"], kind.is_ros1)), found["data"]
    if "compressedDepth" not in form:
        return bytes(image)
    if "32FC1" in form or "rvl" in form.lower():
        raise DataError(f"{label} is depth compressed as {form[:40]!r}; only 16UC1 as PNG is supported")
    return bytes(image[DEPTH_HEADER:])


def _raw(
    kind: MessageType, data: bytes, label: str, wanted: tuple[tuple[int, ...], np.dtype] | None
) -> np.ndarray:
    """Returns (H, W, C) of a raw image, of the wanted shape and dtype if they are known."""
    found = kind.read(data, RAW_FIELDS)
    pixels = np.asarray(found["data"])
    encoding = "".join(texts_of(found["encoding"], kind.is_ros1))
    height, width, is_big, step = (int(found[name][0]) for name in RAW_NUMBERS)
    if encoding not in ENCODINGS:
        raise DataError(f"{label} has the encoding {encoding[:40]!r}; have {', '.join(ENCODINGS)}")
    dtype, channels = ENCODINGS[encoding]
    shape, row = (height, width, channels), width * channels * np.dtype(dtype).itemsize
    if wanted and wanted != (shape, np.dtype(dtype)):
        raise DataError(f"{label} is {dtype} {shape}, the first image is {wanted[1].str[1:]} {wanted[0]}")
    if not height or not width or step < row or len(pixels) < step * height:
        raise DataError(f"{label} has {len(pixels)} bytes for {height} rows of {step} bytes, {shape}")
    rows = np.ascontiguousarray(pixels[: step * height].reshape(height, step)[:, :row])
    image = rows.view(np.dtype(dtype).newbyteorder(">" if is_big else "<")).reshape(shape)
    if encoding in REVERSED:
        image = image[..., [2, 1, 0, 3][:channels]]
    return image.astype(np.dtype(dtype), copy=False)
