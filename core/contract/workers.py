"""What provisioners say about functions and workers in the contract's own terms."""

from enum import StrEnum

from core.contract.base import ContractModel


class WorkerType(StrEnum):
    """Contract: the kinds of compute that existing clients know. Never extended."""

    TEST = "TEST"
    AWS_ECS = "AWS_ECS"


class PreparedFunctionDetails(ContractModel):
    """What a provisioner made of a function, where it speaks the contract's worker types."""

    type: WorkerType
    identifier: str
    """The provisioner's own name for the prepared function."""


class WorkerDetails(ContractModel):
    """The worker of an execution, where its provisioner speaks the contract's worker types."""

    type: WorkerType
    identifier: str
    """The provisioner's own name for the worker."""
    logs_identifier: str
    """The provisioner's own name for the worker's logs."""
