"""Makes certificates with the `openssl` command, for tests of TLS."""

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path, name: str = "cert", hosts: str = "IP:127.0.0.1", days: int = 2) -> tuple:
    """Returns (certificate, key) of a self-signed certificate; `days` below 0: it has expired."""
    if not shutil.which("openssl"):
        pytest.skip("the command openssl is not installed")
    cert, key, request = (folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
    _openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
        f"/CN={name}", "-addext", f"subjectAltName={hosts}", "-keyout", str(key), "-out", str(request),
    )  # fmt: skip
    _openssl(
        "x509", "-req", "-in", str(request), "-signkey", str(key), "-copy_extensions", "copy", "-days",
        str(days), "-out", str(cert),
    )  # fmt: skip
    key.chmod(0o600)
    return cert, key


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
