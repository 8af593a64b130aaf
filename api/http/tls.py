"""The certificate with which the API speaks HTTPS."""

import ssl
from pathlib import Path
from typing import Final

_REASONS: Final = {
    "KEY_VALUES_MISMATCH": "the key is that of another certificate",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe",
    "CA_MD_TOO_WEAK": "the signature is too weak to be safe",
}
"""OpenSSL's names for what is wrong. Without one, it could not read what is in the files."""


class CertificateError(Exception):
    """A certificate or its key cannot be used. The text names the file and what is wrong."""


def load_certificate(certificate: Path, key: Path) -> ssl.SSLContext:
    """Give what serves HTTPS with this certificate. TLS 1.2 is the least that is spoken.

    Args:
        certificate: file in PEM with the server's certificate first, and then those between it and
            its authority.
        key: file in PEM with its private key, not encrypted.

    Raises:
        CertificateError: one of them cannot be used, or they do not fit each other.
    """
    for file, what in ((certificate, "certificate"), (key, "key")):
        try:
            content = file.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise CertificateError(f"The {what} {file} cannot be read: {error.strerror}") from None
        if "-----BEGIN " not in content:
            raise CertificateError(f"The {what} {file} is no file in PEM")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: _refuse_password(key))
    except ssl.SSLError as error:
        reason = _REASONS.get(error.reason or "", "one of them holds something else")
        raise CertificateError(
            f"The certificate {certificate} cannot be used with the key {key}: {reason}"
        ) from None
    return context


def why_not_verified(tls: ssl.SSLContext, host: str) -> str | None:
    """Say why a client of this machine would not trust the server under a name; None if it would.

    The client trusts what this process trusts: the system's authorities, or those of SSL_CERT_FILE
    and SSL_CERT_DIR. Nothing is sent; both sides are in memory.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=host)
    server = tls.wrap_bio(to_server, to_client, server_side=True)
    # A handshake of TLS 1.3 takes three turns, one of TLS 1.2 four.
    for _ in range(5):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return error.reason or str(error)
    return None


def _refuse_password(key: Path) -> str:
    raise CertificateError(f"The key {key} is encrypted: store it without a password, mode 0600")
