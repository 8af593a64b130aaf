"""A short storm from a fixed seed; `make chaos` runs long ones."""

from pathlib import Path

import pytest

from tests.proofs.chaos.run import Options, run_chaos


@pytest.mark.timeout(900)
async def test_nothing_is_lost_and_nothing_runs_twice(
    open_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = await run_chaos(Options(seed=20261125, seconds=20, longest=4), open_folder)

    assert good, capsys.readouterr().out
