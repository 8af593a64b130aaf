"""Settings: what each program reads from the environment.

A field's name is the environment variable's name in lower case. Each program loads only the classes
it needs, so that for example `migrate` does not ask for an API key. The settings of a provisioner
stand beside it.
"""

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.secret_files import FILE_SUFFIX, SecretFileError, read_secret_files, remember


class SettingsError(Exception):
    """A setting is missing or wrong. The text is one line that names it."""


class Settings(BaseSettings):
    """What every settings class inherits."""

    # An empty variable counts as unset: env files often carry `NAME=` for "nothing".
    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)


class RegistrySettings(Settings):
    """Where Postgres is."""

    postgres_host: str = "localhost"
    """A host name, or the absolute path of the folder with the server's Unix socket."""
    postgres_port: int = Field(default=5432, ge=1, le=65535)
    postgres_db: str
    postgres_user: str
    postgres_password: SecretStr
    postgres_pool_size: int = Field(default=20, ge=1, le=1000)
    """Connections that one process opens at most."""
    postgres_wait_seconds: float = Field(default=30, ge=0, le=3600)
    """Seconds to wait for Postgres with `--create-tables`: it is often started together with us."""


class TemporalSettings(Settings):
    """Where Temporal is. TLS and API keys come from Temporal's own TEMPORAL_* variables."""

    temporal_address: str = "localhost:7233"
    temporal_namespace: str = "default"
    temporal_task_queue: str = "control-plane"
    """Prefix of the task queues; two stacks in one namespace need two prefixes."""
    temporal_heartbeat_seconds: float = Field(default=10.0, ge=1, le=300)
    """Seconds after which a dead Temporal worker's activities run elsewhere."""
    temporal_ui_url: str | None = None
    """Base address of Temporal's web UI; without it, answers carry no links to it."""


class ApiKeySettings(Settings):
    """The secrets that API and Temporal worker share."""

    control_plane_api_key: SecretStr
    """The key that users send as a bearer token."""
    control_plane_api_key_previous: SecretStr | None = None
    """A key that is accepted besides, while clients change from it to the new one."""
    control_plane_token_secret: SecretStr | None = None
    """Secret that worker tokens are derived from; by default the registry keeps one."""
    control_plane_insecure_key: bool = False
    """Whether a key that can be guessed is taken where others than this machine can reach it."""

    def api_keys(self) -> tuple[str, ...]:
        """Give the keys that are accepted, the new one first."""
        keys = (self.control_plane_api_key, self.control_plane_api_key_previous)
        return tuple(key.get_secret_value() for key in keys if key is not None)


class ApiSettings(Settings):
    """What only the API reads."""

    container_repository_name: str | None = None
    container_repository_user: str | None = None
    container_repository_password: SecretStr | None = None
    container_repository_endpoint: str | None = None
    bundle_limit_mb: int = Field(default=64, ge=1, le=10_000)
    """What the files of one code bundle may have together, in MiB."""
    bundle_file_limit_mb: int = Field(default=16, ge=1, le=10_000)
    """What one file of a code bundle may have, in MiB."""
    bundle_files_limit: int = Field(default=10_000, ge=1, le=20_000)
    """Files in one code bundle; their names come in one request of at most 4 MiB."""
    control_plane_max_connections: int | None = Field(default=None, ge=1, le=1_000_000)
    """Connections that are open at the same time; by default what the open files allow."""


class BundleStoreSettings(Settings):
    """Where the content of code bundles is kept. API and Temporal worker need the same."""

    bundle_store_folder: Path | None = None
    """A folder that both can reach; without it, Postgres."""

    @field_validator("bundle_store_folder")
    @classmethod
    def _is_absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("must be an absolute path")
        return value


class TemporalWorkerSettings(Settings):
    """What only the Temporal worker reads."""

    control_plane_api_url: str = "http://localhost:5000"
    """Address at which workers reach the API."""
    termination_grace_seconds: float = Field(default=10.0, ge=0, le=3600)
    """Seconds between the polite and the hard end of a worker."""
    max_workers: int = Field(default=1000, ge=1, le=100_000)
    """Workers that one Temporal worker watches, and may be ending, at the same time."""
    sweep_interval_seconds: float = Field(default=30.0, ge=0, le=3600)
    """Seconds from one sweep to the next; with 0 this Temporal worker does not ask for sweeps."""


S = TypeVar("S", bound=BaseSettings)


def load(settings_class: type[S], **given: SecretStr) -> S:
    """Read settings from the environment, and secrets also from files that `NAME_FILE` names.

    Args:
        settings_class: what is read.
        **given: secrets that are known already, and not read.

    Raises:
        SettingsError: a variable is missing or does not fit; the text names it, never its value.
    """
    names = [name for name, field in settings_class.model_fields.items() if _is_secret(field)]
    try:
        from_files = read_secret_files(name for name in names if name not in given)
        secrets: dict[str, Any] = {**from_files, **given}
        settings = settings_class(**secrets)
    except SecretFileError as error:
        raise SettingsError(str(error)) from None
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        field = str(problem["loc"][0])
        name = field.upper() + FILE_SUFFIX * (field in names and field in from_files)
        if problem["type"] == "missing":
            raise SettingsError(f"Environment variable {name} not found") from None
        message = f"Environment variable {name} is invalid: {problem['msg']}"
        raise SettingsError(message) from None
    remember(names)
    return settings


def _is_secret(field: FieldInfo) -> bool:
    return field.annotation is SecretStr or SecretStr in get_args(field.annotation)
