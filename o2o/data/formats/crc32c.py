"""Computes CRC-32C (Castagnoli), the checksum of tfrecord files. Source: RFC 3720, appendix B.4."""

from o2o.core.extras import needed_by


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of the data.

    Raises:
        UsageError: the package that computes it is not installed.
    """
    with needed_by("reading RLDS"):
        from google_crc32c import value
    return value(data)
