import pytest

from provisioners.conformance import Backend, ProvisionerConformance
from tests.support.provisioners.process_backend import ProcessBackend


class TestProcessProvisioner(ProvisionerConformance):
    @pytest.fixture
    def backend(self, process_backend: ProcessBackend) -> Backend:
        return process_backend
