"""Builds the TLS settings of a robot's server and of its client from certificate files."""

import os
import ssl
from pathlib import Path

from o2o.core.errors import UsageError
from o2o.core.file_access import readable_by_others
from o2o.core.files import open_regular


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Returns the settings of a server that shows a certificate.

    Args:
        cert: PEM file with the certificate, and those that lead to its authority.
        key: PEM file with the certificate's private key, not encrypted, which only this user can read.
    Raises:
        UsageError: a file cannot be read, holds something else, does not fit the other one, or the key can be
            read by other users.
    """

    def refuse() -> str:
        raise UsageError(f"--key {key} is encrypted: decrypt it with `openssl pkey -in {key} -out NEW`")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # then nothing but data follows the handshake, and two threads may share it
    _check("--cert", cert)
    _check("--key", key, secret=True)
    try:
        context.load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"--key {key} is not the key of --cert {cert}") from error
        raise UsageError(f"--cert {cert} and --key {key} are not a certificate and its key in PEM") from error
    return context


def client_context(cert: Path | None, flag: str = "--robot.cert") -> ssl.SSLContext:
    """Returns the settings of a client that checks the server's certificate and host name.

    Args:
        cert: PEM file with the only certificates to trust: the server's own, or its authority's. None: those
            that this system trusts.
        flag: the flag that names the file, for errors.
    Raises:
        UsageError: the file cannot be read, or holds no certificate.
    """
    if cert is None:
        context = ssl.create_default_context()
    else:
        _check(flag, cert)
        try:
            context = ssl.create_default_context(cafile=os.fspath(cert))
        except ssl.SSLError as error:
            raise UsageError(f"{flag} {cert} holds no certificate in PEM") from error
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the server's own certificate may be given
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _check(flag: str, path: Path, secret: bool = False) -> None:
    try:
        with open_regular(path) as file:
            why = readable_by_others(os.fstat(file.fileno())) if secret else ""
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be read: {error.strerror}") from error
    if why:
        raise UsageError(f"{flag} {path} can be read by other users ({why}): chmod 600 {path}")
