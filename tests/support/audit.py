"""Looks for known vulnerabilities in the locked packages: `make audit`.

pip-audit asks the package index for advisories. An index without any, a mirror for example, answers
404 to each question, which pip-audit takes for "nothing is known". Here that is no good news: a
status of its own says that nobody has looked.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

LOCKS: Final = ("requirements.lock", "requirements-dev.lock")
_UNREACHABLE: Final = ("ConnectionError", "ServiceError", "Timeout", "HTTPError")
"""Words in what pip-audit says when it cannot ask."""
_SECONDS: Final = 300.0


class Verdict(IntEnum):
    """What came of it, as an exit status."""

    CLEAN = 0
    VULNERABLE = 1
    BROKEN = 2
    """pip-audit itself has failed, for another reason than the network."""
    NOT_LOOKED_UP = 3
    """No advisories could be had for some packages, or for all."""


def judge(report: str, errors: str) -> tuple[Verdict, list[str]]:
    """Read what pip-audit has written with `--format json`; the lines explain the verdict."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (errors.strip() or "it said nothing").splitlines()[-1]
        unreachable = any(word in errors for word in _UNREACHABLE)
        return (Verdict.NOT_LOOKED_UP if unreachable else Verdict.BROKEN), [f"pip-audit: {last}"]
    found = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"mended in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in packages
        for vulnerability in package.get("vulns", ())
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    asked = len(packages) - len(unknown)
    lines = [*found, f"{asked} of {len(packages)} packages looked up, {len(found)} advisories"]
    if unknown:
        names = ", ".join(unknown) if asked else "any package"
        lines.append(f"the index has no advisories for {names}")
    if found:
        return Verdict.VULNERABLE, lines
    return (Verdict.CLEAN if asked and not unknown else Verdict.NOT_LOOKED_UP), lines


def audit(lock: Path) -> tuple[Verdict, list[str]]:
    """Ask for the packages of one lock file, as far as they are for this Python and machine."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    command += ["--require-hashes", "--disable-pip", "--requirement", str(lock)]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Verdict.NOT_LOOKED_UP, [f"no answer within {_SECONDS:g} s"]
    return judge(ended.stdout, ended.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit both lock files; returns the worst verdict."""
    parser = argparse.ArgumentParser(prog="make audit", description=__doc__)
    parser.add_argument(
        "--where-possible",
        action="store_true",
        help="for CI: end with 0 where no advisories can be had, and say so",
    )
    options = parser.parse_args(arguments)
    verdicts = []
    for lock in LOCKS:
        verdict, lines = audit(Path(lock))
        verdicts.append(verdict)
        print(f"{lock}: {verdict.name.lower().replace('_', ' ')}")
        for line in lines:
            print(f"  {line}")
    for bad in (Verdict.VULNERABLE, Verdict.BROKEN):
        if bad in verdicts:
            return bad
    if Verdict.NOT_LOOKED_UP not in verdicts:
        return Verdict.CLEAN
    print("Not all packages were audited: no advisories can be had from here.")
    return Verdict.CLEAN if options.where_possible else Verdict.NOT_LOOKED_UP


if __name__ == "__main__":
    sys.exit(main())
