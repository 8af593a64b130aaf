"""A whole stack in a process of its own, so that what it takes is not mixed with the load's.

As a module it is that process: `python -m bench.stacks --folder F --provisioner instant`.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from bench.instant import InstantProvisioner
from bench.programs import cpu_seconds, module, say, until_told_to_stop
from core.settings import RegistrySettings
from core.temporal.client import EmbeddedTemporalSettings
from runtime.logging import configure_logging
from standalone.options import StackOptions
from standalone.servers.postgres import EmbeddedPostgres
from standalone.stack import running_stack
from standalone.temporal.dev_server import TemporalDevServer


@dataclass(frozen=True, kw_only=True)
class RunningStack:
    """Where a stack is reached, and its processes."""

    api_url: str
    api_key: str
    temporal: EmbeddedTemporalSettings
    registry: RegistrySettings
    pid: int
    """API and Temporal worker."""
    postgres_pid: int
    temporal_pid: int

    def cpu(self) -> dict[str, float]:
        """Give the seconds of processor time that each part has used so far."""
        return {
            "ours": cpu_seconds(self.pid),
            "postgres": cpu_seconds(self.postgres_pid, children=True),
            "temporal": cpu_seconds(self.temporal_pid, children=True),
        }


@asynccontextmanager
async def stack(folder: Path, *, provisioner: str) -> AsyncIterator[RunningStack]:
    """Run a stack during the block, as `control-plane up` does.

    Args:
        folder: for its data.
        provisioner: a kind, or `instant` for workers that cost nothing.
    """
    arguments = ["--folder", str(folder), "--provisioner", provisioner]
    async with module("bench.stacks", arguments) as (pid, facts):
        yield RunningStack(
            api_url=facts["api_url"],
            api_key=facts["api_key"],
            temporal=EmbeddedTemporalSettings(
                temporal_address=facts["temporal_address"],
                temporal_secret=SecretStr(facts["temporal_secret"]),
            ),
            registry=RegistrySettings(
                postgres_host=facts["postgres_host"],
                postgres_port=facts["postgres_port"],
                postgres_user=facts["postgres_user"],
                postgres_password=SecretStr(facts["postgres_password"]),
                postgres_db="control_plane",
            ),
            pid=pid,
            postgres_pid=facts["postgres_pid"],
            temporal_pid=facts["temporal_pid"],
        )


async def _serve(folder: Path, provisioner: str) -> None:
    is_instant = provisioner == "instant"
    options = StackOptions(
        data_folder=folder,
        api_port=0,
        provisioner="process" if is_instant else provisioner,
        # To measure what closing it costs.
        temporal_open=bool(os.environ.get("CONTROL_PLANE_TEMPORAL_OPEN")),
    )
    backend = InstantProvisioner() if is_instant else None
    async with running_stack(options, provisioner=backend) as running:
        (postgres,) = (part for part in running.embedded if isinstance(part, EmbeddedPostgres))
        (temporal,) = (part for part in running.embedded if isinstance(part, TemporalDevServer))
        say(
            {
                "api_url": running.api_url,
                "api_key": running.api_key.get_secret_value(),
                "temporal_address": temporal.settings.temporal_address,
                "temporal_secret": temporal.settings.temporal_secret.get_secret_value(),
                "postgres_host": postgres.host,
                "postgres_port": postgres.port,
                "postgres_user": postgres.user,
                "postgres_password": postgres.password,
                "postgres_pid": postgres.pid,
                "temporal_pid": temporal.pid,
            }
        )
        await until_told_to_stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.stacks", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--provisioner", required=True)
    arguments = parser.parse_args()
    configure_logging(level=os.environ.get("LOG_LEVEL", "ERROR"))
    asyncio.run(_serve(arguments.folder, arguments.provisioner))
