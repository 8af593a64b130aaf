"""Certificates that a test makes for itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificate"
)


def make_certificate(folder: Path, *names: str, password: str | None = None) -> tuple[Path, Path]:
    """Make a certificate that is its own authority; returns its file, and that of its key.

    Args:
        folder: for the files.
        *names: as in `subjectAltName`, for example `DNS:localhost`.
        password: to encrypt the key with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *(("-nodes",) if password is None else ("-passout", f"pass:{password}")),
            *("-days", "1", "-subj", "/CN=control-plane"),
            *("-addext", f"subjectAltName={','.join(names)}", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
