"""`make audit` tells good news from no news."""

import json

import pytest

from tests.support.audit import Verdict, judge

CLEAN = {"name": "click", "version": "8.5.1", "vulns": []}
BAD = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2021-66", "fix_versions": ["2.11.3"], "description": "..."}],
}
UNKNOWN = {"name": "uv", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("packages", "verdict"),
    [
        ([CLEAN], Verdict.CLEAN),
        ([CLEAN, BAD], Verdict.VULNERABLE),
        ([BAD, UNKNOWN], Verdict.VULNERABLE),
        ([CLEAN, UNKNOWN], Verdict.NOT_LOOKED_UP),
        ([UNKNOWN], Verdict.NOT_LOOKED_UP),
        ([], Verdict.NOT_LOOKED_UP),
    ],
)
def test_a_report(packages: list[dict[str, object]], verdict: Verdict) -> None:
    found, lines = judge(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert found is verdict
    assert ("jinja2 2.4.1: PYSEC-2021-66, mended in 2.11.3" in lines) is (BAD in packages)


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ("ERROR: ...\nrequests.exceptions.ConnectionError: no route", Verdict.NOT_LOOKED_UP),
        ("ERROR:pip_audit._cli:requirement click is not hashed", Verdict.BROKEN),
        ("", Verdict.BROKEN),
    ],
)
def test_no_report(errors: str, verdict: Verdict) -> None:
    assert judge("", errors)[0] is verdict
