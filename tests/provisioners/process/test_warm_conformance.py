"""Warm workers do what every worker does."""

import asyncio

import pytest

from provisioners.conformance import (
    Backend,
    Behaviour,
    ProvisionerConformance,
    wait_for_line,
)
from tests.support.provisioners.warm_backend import WarmBackend


class TestWarmStarts(ProvisionerConformance):
    @pytest.fixture
    def backend(self, warm_backend: WarmBackend) -> Backend:
        return warm_backend

    async def test_provision_after_a_cancelled_one_starts_one(self, backend: Backend) -> None:
        # As in the suite, but what is cancelled is the start from a parent that is ready.
        assert isinstance(backend, WarmBackend)
        request = backend.request(Behaviour.RUNS)
        await backend.warm_first.warm_up(request)
        interrupted = asyncio.create_task(backend.provisioner.provision(request))
        for _ in range(5):
            await asyncio.sleep(0)
        interrupted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await interrupted

        worker = await backend.provisioner.provision(request)

        await wait_for_line(backend.provisioner, worker, "ready")
        assert backend.starts(request.execution_id) == 1
