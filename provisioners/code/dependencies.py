"""What a code bundle depends on, by its requirements.txt, uv.lock or pyproject.toml."""

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from provisioners.base import UnrecoverableProvisioningError
from provisioners.code.sdk import DISTRIBUTION

_PLAIN_REQUIREMENT = re.compile(
    # A name that ends as a file's does is taken for a file of the bundle.
    r"(?!\S+\.(whl|zip|tgz|tar(\.\w+)?)(\s|;|$))[A-Za-z0-9][^/@\\]*|--hash=\S+",
    re.IGNORECASE,
)
_LOCAL_SOURCE = re.compile(r'source = \{ (path|directory|editable|virtual) = "(?!\.")')
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """What a bundle wants to have installed."""

    source: str
    """The file that says so."""
    requirements: str | None
    """The list, for installers; None: they read the file itself."""
    is_plain: bool
    """Whether it refers to nothing within the bundle."""
    digest: str
    """Names the list together with all that it refers to."""


def dependencies_of(files: Path, bundle_digest: str) -> Dependencies | None:
    """Read what a bundle depends on: requirements.txt, or uv.lock, or pyproject.toml.

    The first of them that is there counts. The SDK is left out: each worker has it.

    Raises:
        UnrecoverableProvisioningError: the file cannot be read.
    """
    try:
        if (files / "requirements.txt").exists():
            return _from_requirements((files / "requirements.txt").read_text(), bundle_digest)
        if (files / "pyproject.toml").exists():
            text = (files / "pyproject.toml").read_text()
            if (files / "uv.lock").exists():
                lock = (files / "uv.lock").read_text()
                return _from_lock(text, lock, bundle_digest)
            return _from_pyproject(tomllib.loads(text), bundle_digest)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"The dependencies of the project cannot be read: {error}"
        raise UnrecoverableProvisioningError(message) from None
    return None


def _from_requirements(text: str, bundle_digest: str) -> Dependencies | None:
    lines = [
        re.sub(r"(^|\s)#.*", "", line).strip() for line in re.sub(r"\\\n", " ", text).split("\n")
    ]
    lines = [line for line in lines if line]
    kept = [line for line in lines if not _is_sdk(line)]
    if not kept:
        return None
    is_plain = all(_PLAIN_REQUIREMENT.fullmatch(line) for line in kept)
    return Dependencies(
        source="requirements.txt",
        requirements=None if kept == lines else "\n".join(kept) + "\n",
        is_plain=is_plain,
        digest=joint_digest("requirements", *kept, *([] if is_plain else [bundle_digest])),
    )


def _from_lock(project: str, lock: str, bundle_digest: str) -> Dependencies:
    is_plain = _LOCAL_SOURCE.search(lock) is None
    return Dependencies(
        source="uv.lock",
        requirements=None,
        is_plain=is_plain,
        digest=joint_digest("uv.lock", project, lock, *([] if is_plain else [bundle_digest])),
    )


def _from_pyproject(content: dict[str, object], bundle_digest: str) -> Dependencies | None:
    project = content.get("project")
    listed = project.get("dependencies", []) if isinstance(project, dict) else []
    if not isinstance(listed, list) or not all(isinstance(line, str) for line in listed):
        message = "pyproject.toml: project.dependencies must be a list of strings"
        raise UnrecoverableProvisioningError(message)
    kept = [line.strip() for line in listed if not _is_sdk(line)]
    if not kept:
        return None
    is_plain = all(_PLAIN_REQUIREMENT.fullmatch(line) for line in kept)
    return Dependencies(
        source="pyproject.toml",
        requirements="\n".join(kept) + "\n",
        is_plain=is_plain,
        digest=joint_digest("pyproject", *kept, *([] if is_plain else [bundle_digest])),
    )


def _is_sdk(requirement: str) -> bool:
    name = _NAME.match(requirement.strip())
    return name is not None and re.sub(r"[-_.]+", "-", name.group()).lower() == DISTRIBUTION


def joint_digest(*parts: object) -> str:
    """Name what is made of several parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
