"""What the external provisioner reads from the environment."""

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from core.settings import Settings


class ExternalProvisionerSettings(Settings):
    """Where the server is, and how it is asked."""

    provisioner_api_url: str
    """Address of the service that makes the workers; a path in it is dropped."""
    provisioner_api_key: SecretStr
    """What it gets as a bearer token."""
    provisioner_timeout_seconds: float = Field(default=30, ge=1, le=240)
    """Time that one request may take."""
    provisioner_poll_seconds: float = Field(default=1, ge=0.1, le=60)
    """Pause between two questions about the state of one worker."""
    provisioner_log_limit_mb: int = Field(default=16, ge=1, le=10_000)
    """Output of one worker that is kept, in MiB."""
    provisioner_log_patience_seconds: float = Field(default=60, ge=0, le=3600)
    """How long it is tried to read the logs of a worker that has ended."""

    @field_validator("provisioner_api_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an address like http://host:port")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user or a password")
        _ = parts.port  # raises ValueError for what is no port
        return value

    @field_validator("provisioner_api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("must be printable ASCII without spaces")
        return value
