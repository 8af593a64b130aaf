"""What the files of a project say, as `confined_program` has found it out."""

import hashlib
import json
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provisioners.base import UnrecoverableProvisioningError

MAX_WARM: Final = 100
"""For so many functions of one version a warm parent can be asked for."""
FORMAT: Final = 1
"""Changes when facts are found in another way: what was kept is then found again."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Dependencies(_Model):
    """What a bundle wants to have installed."""

    source: Literal["requirements.txt", "uv.lock", "pyproject.toml"]
    """The file that says so."""
    requirements: str | None
    """The list, for installers, which read no other; None for uv.lock."""
    constraints: str | None
    """What the list limits the versions of other packages to; None: nothing."""
    needs_build: str | None
    """A line of the list for which an installer builds, whatever it is told; None: none does."""
    is_plain: bool
    """Whether it refers to nothing within the bundle."""
    content: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Names the list, without the files that it refers to."""

    def digest(self, bundle_digest: str) -> str:
        """Name the list together with all that it refers to."""
        return joint_digest(self.source, self.content, *([] if self.is_plain else [bundle_digest]))


class ProjectFacts(_Model):
    """What the files of a project say."""

    format: Literal[1] = FORMAT
    problem: str | None = Field(default=None, max_length=2000)
    """Why they cannot be read or understood, for good: one line. Then nothing else counts."""
    command: tuple[str, ...] | None = None
    """From control-plane.toml; None: a Python project for the SDK's runner."""
    warm: int = Field(default=0, ge=0, le=MAX_WARM)
    """From control-plane.toml: for how many functions there may be a warm parent."""
    is_python: bool = False
    """Whether there is Python code, or a command."""
    dependencies: Dependencies | None = None

    def check(self) -> None:
        """Make sure that the files could be read.

        Raises:
            UnrecoverableProvisioningError: they cannot be; the text says why.
        """
        if self.problem is not None:
            raise UnrecoverableProvisioningError(self.problem)


def facts_from(text: str | bytes) -> ProjectFacts | None:
    """Read facts from JSON; None if there are none in it, or those of another format."""
    try:
        return ProjectFacts.model_validate_json(text)
    except ValidationError:
        return None


def joint_digest(*parts: object) -> str:
    """Name what is made of several parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
