"""The address at which workers of a standalone stack reach an API that speaks HTTPS."""

import ssl
from urllib.parse import urlsplit

from api.http.tls import why_not_verified
from core.settings import TemporalWorkerSettings
from standalone.errors import StandaloneError


def address_for_workers(tls: ssl.SSLContext, url: str, settings: TemporalWorkerSettings) -> str:
    """Give an https address that the certificate is for, as a client of this machine sees it.

    Args:
        tls: the API's certificate.
        url: where the API listens, as an http address.
        settings: may name the address, if the certificate is for another name than this one.

    Raises:
        StandaloneError: workers would not trust the API there.
    """
    named = settings.control_plane_api_url
    address = named if named.startswith("https://") else url.replace("http://", "https://", 1)
    reason = why_not_verified(tls, urlsplit(address).hostname or "")
    if reason is not None:
        raise StandaloneError(
            f"Workers would not trust the certificate at {address}: {reason}. Set "
            "CONTROL_PLANE_API_URL to an https address that the certificate is for, and "
            "SSL_CERT_FILE to the certificate of its authority if this machine does not know that"
        )
    return address
