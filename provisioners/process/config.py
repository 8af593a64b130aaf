"""What the operator decides about the process provisioner."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator

from core.settings import Settings, load
from provisioners.code.build import find_uv
from provisioners.process.confinement.users import USUAL_UIDS, UidRange
from provisioners.process.warm.parents import WarmLimits


class ProcessProvisionerSettings(Settings):
    """What the process provisioner reads from the environment."""

    process_state_folder: Path = Path("/var/tmp/control-plane")  # noqa: S108 - must outlive a reboot
    """Where workers' folders and output files are kept."""
    process_pass_environment: str = ""
    """Comma-separated names of variables that workers inherit in addition."""
    process_log_limit_mb: int = Field(default=16, ge=1, le=10_000)
    """Output of one worker that is kept, in MiB."""
    process_build_seconds: float = Field(default=600, ge=1, le=1500)
    """Time that the installation of a code bundle's dependencies may take."""
    control_plane_allow_builds: bool = False
    """Whether packages without a wheel are built, which runs their code: `yes` or `no`."""
    process_code_days: float = Field(default=7, ge=2, le=3650)
    """Days after which code bundles and environments that no worker was started from are removed.

    At least two: no call lasts longer than one.
    """
    process_worker_uids: str = USUAL_UIDS
    """Where root runs the server: user ids for workers, one for each project."""
    process_workers_as_root: bool = False
    """Where root runs the server: run workers as root too, with all that root may do."""
    process_warm_parents: int = Field(default=16, ge=0, le=1000)
    """Warm parents at the same time; 0: every worker starts cold."""
    process_warm_idle_seconds: float = Field(default=300, ge=1, le=86_400)
    """Seconds after which an unused warm parent ends."""

    @field_validator("process_worker_uids")
    @classmethod
    def _is_a_range(cls, value: str) -> str:
        UidRange.parse(value)
        return value


@dataclass(frozen=True, kw_only=True)
class ProcessProvisionerConfig:
    """What the operator decides."""

    state_folder: Path
    """Workers' folders and output, apart for each deployment; must outlive a restart."""
    passed_environment: tuple[str, ...] = ()
    """Names of variables that workers inherit, besides `code.project.INHERITED_VARIABLES`."""
    python: Path | None = None
    """Interpreter for projects without a `.venv`; by default the one that runs the server."""
    log_limit_bytes: int = 16 * 2**20
    """Output that is kept of one worker."""
    max_line_bytes: int = 64 * 2**10
    """Longer lines of output come in pieces."""
    use_cgroups: bool = True
    """Enforce memory and CPU limits by cgroups where possible."""
    build_seconds: float = 600
    """Time that the installation of a bundle's dependencies may take."""
    allow_builds: bool = False
    """Whether packages without a wheel are built, which runs their code."""
    keep_code_seconds: float = 7 * 86_400
    """How long unused code bundles and environments are kept; more than a day."""
    uv: Path | None = field(default_factory=find_uv)
    """Installs dependencies; without it, pip does."""
    warm: WarmLimits = field(default_factory=WarmLimits)
    """What is kept for warm starts, for projects that ask for it."""
    worker_uids: UidRange = field(default_factory=lambda: UidRange.parse(USUAL_UIDS))
    """Users for workers, one for each project, where root runs the server."""
    workers_as_root: bool = False
    """Run workers as root all the same."""

    @classmethod
    def from_environment(cls, *, usual_state_folder: Path | None = None) -> Self:
        """Read `ProcessProvisionerSettings`.

        Args:
            usual_state_folder: the state folder unless PROCESS_STATE_FOLDER names one.
        """
        settings = load(ProcessProvisionerSettings)
        state_folder = settings.process_state_folder
        if usual_state_folder and "process_state_folder" not in settings.model_fields_set:
            state_folder = usual_state_folder
        names = settings.process_pass_environment.split(",")
        return cls(
            state_folder=state_folder,
            passed_environment=tuple(name.strip() for name in names if name.strip()),
            log_limit_bytes=settings.process_log_limit_mb * 2**20,
            build_seconds=settings.process_build_seconds,
            allow_builds=settings.control_plane_allow_builds,
            keep_code_seconds=settings.process_code_days * 86_400,
            worker_uids=UidRange.parse(settings.process_worker_uids),
            workers_as_root=settings.process_workers_as_root,
            warm=WarmLimits(
                parents=settings.process_warm_parents,
                idle_seconds=settings.process_warm_idle_seconds,
            ),
        )
