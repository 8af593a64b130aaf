"""Every error that the server answers with, its HTTP status and its exact text.

Existing clients compare status *and* text, so neither may change. The class docstring says when an
error is raised; `reason` is a stable word for logs and metrics.
"""

from typing import ClassVar


class ControlPlaneError(Exception):
    """Base of the errors that a client may see. Subclasses fix `status`, `reason` and `detail`."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    detail: str = "Internal Server Error"

    def __init__(self, detail: str | None = None) -> None:
        if detail is not None:
            self.detail = detail
        super().__init__(self.detail)


class NotAuthenticatedError(ControlPlaneError):
    """No Authorization header, or one without a credential."""

    status = 403
    reason = "not_authenticated"
    detail = "Not authenticated"


class AuthenticationSchemeIsInvalidError(ControlPlaneError):
    """The Authorization header has another scheme than Bearer."""

    status = 403
    reason = "authentication_scheme_invalid"
    detail = "Invalid authentication credentials"


class ApiKeyIsInvalidError(ControlPlaneError):
    """The credential is neither the API key nor a valid worker token."""

    status = 403
    reason = "api_key_invalid"
    detail = "The API key is invalid"


class WorkerTokenScopeError(ControlPlaneError):
    """A worker used its token for something outside its own execution."""

    status = 403
    reason = "worker_token_scope"
    detail = (
        "This key is a worker's token. It is good for that worker's own execution and for "
        "child invocations of it only"
    )


class OffsetIsInvalidError(ControlPlaneError):
    """A paging offset that this server did not hand out."""

    status = 400
    reason = "offset_invalid"
    detail = "The next offset is in an invalid format"


class ParentFunctionNameIsMissingError(ControlPlaneError):
    """A list is filtered by the parent's invocation id alone."""

    status = 400
    reason = "parent_function_name_missing"
    detail = "The parent function name is missing"


class ParentInvocationIdIsMissingError(ControlPlaneError):
    """A list is filtered by the parent's function name alone."""

    status = 400
    reason = "parent_invocation_id_missing"
    detail = "The parent invocation ID is missing"


class ParentInvocationDoesNotExistError(ControlPlaneError):
    """The named parent is not an invocation in the same project and version."""

    status = 400
    reason = "parent_invocation_missing"
    detail = "The ID of the parent invocation is invalid"


class ProjectNameIsTooLongError(ControlPlaneError):
    """A project name has more than 64 characters."""

    status = 400
    reason = "project_name_too_long"
    detail = "The project name is too long"


class ProjectIsBeingDeletedError(ControlPlaneError):
    """A version is registered in a project whose deletion was requested."""

    status = 400
    reason = "project_being_deleted"
    detail = "The project is being deleted"


class ProjectDoesNotExistError(ControlPlaneError):
    """No project has this name."""

    status = 404
    reason = "project_missing"
    detail = "A project with this name does not exist"


class ProjectAlreadyExistsError(ControlPlaneError):
    """The name is taken."""

    status = 409
    reason = "project_exists"
    detail = "A project with this name already exists."


class VersionDoesNotExistError(ControlPlaneError):
    """The project has no such version, or `latest` was asked of a project without versions."""

    status = 404
    reason = "version_missing"
    detail = "A version with this ID does not exist for this project"


class FunctionDoesNotExistError(ControlPlaneError):
    """The version has no function of this name."""

    status = 404
    reason = "function_missing"
    detail = "A function with this name does not exist for this project version"


class InvocationIdDoesNotExistError(ControlPlaneError):
    """No function has such an invocation. For paths that name an invocation by its id alone."""

    status = 404
    reason = "invocation_id_missing"
    detail = "An invocation with this ID does not exist"


class InvocationDoesNotExistError(ControlPlaneError):
    """The function has no such invocation."""

    status = 404
    reason = "invocation_missing"
    detail = "An invocation with this ID does not exist for this function"


class ExecutionDoesNotExistError(ControlPlaneError):
    """The invocation has no such execution."""

    status = 404
    reason = "execution_missing"
    detail = "An execution with this ID does not exist for this invocation"


class ExecutionHasAlreadyStartedError(ControlPlaneError):
    """`start` was called before."""

    status = 409
    reason = "execution_started"
    detail = "This execution has already started"


class ExecutionHasNotStartedError(ControlPlaneError):
    """`update` or `finish` came before `start`."""

    status = 409
    reason = "execution_not_started"
    detail = "This execution has not yet started"


class ExecutionHasAlreadyFinishedError(ControlPlaneError):
    """`finish` was called before."""

    status = 409
    reason = "execution_finished"
    detail = "This execution has already finished"


class ExecutionIsAlreadyTerminatedError(ControlPlaneError):
    """The worker is gone; its execution takes no more reports."""

    status = 409
    reason = "execution_terminated"
    detail = "This execution has already terminated"


class InvocationIsAlreadyTerminatedError(ControlPlaneError):
    """A cancel came after the end."""

    status = 409
    reason = "invocation_terminated"
    detail = "This invocation has already terminated"


class BundleManifestIsInvalidError(ControlPlaneError):
    """A code bundle that cannot become a folder: a path or a size in it is wrong."""

    status = 400
    reason = "bundle_manifest_invalid"
    detail = "The code bundle's manifest is invalid"


class BundlePieceIsInvalidError(ControlPlaneError):
    """Uploaded pieces that cannot be read, do not have their digest, or are not in the bundle."""

    status = 400
    reason = "bundle_piece_invalid"
    detail = "The uploaded pieces are invalid"


class BundleIsNotCompleteError(ControlPlaneError):
    """A version names a code bundle that is not there, or of which pieces are missing."""

    status = 400
    reason = "bundle_not_complete"
    detail = "The code bundle has not been uploaded to this project"


class BundleDoesNotExistError(ControlPlaneError):
    """The project has no such code bundle."""

    status = 404
    reason = "bundle_missing"
    detail = "A code bundle with this digest does not exist for this project"


class BundleIsTooLargeError(ControlPlaneError):
    """A code bundle is over one of the server's limits; the text names it."""

    status = 413
    reason = "bundle_too_large"
    detail = "The code bundle is too large"


class ContainerRepositoryIsNotConfiguredError(ControlPlaneError):
    """The operator has set no container repository."""

    status = 404
    reason = "container_repository_not_configured"
    detail = "No container repository is configured on this server"


class TemporalUiIsNotConfiguredError(ControlPlaneError):
    """The server knows no address of Temporal's web UI."""

    status = 404
    reason = "temporal_ui_not_configured"
    detail = "The server knows no address of Temporal's web UI; TEMPORAL_UI_URL names it there"


class RequestBodyIsTooLargeError(ControlPlaneError):
    """A request body is over the server's limit."""

    status = 413
    reason = "request_body_too_large"
    detail = "The request body is too large: at most 4194304 bytes (4 MiB) are accepted"


class RequestBodiesAreTooManyError(ControlPlaneError):
    """The bodies of all requests together are over the server's limit. It may be repeated."""

    status = 503
    reason = "request_bodies_too_many"
    detail = "Too many large requests at the moment. Please try again"


class RegistryIsUnavailableError(ControlPlaneError):
    """Postgres did not answer, or the connection was lost.

    The request may be repeated. As a rule it has changed nothing; but if the connection was lost
    while the change was being committed, that is unknown.
    """

    status = 503
    reason = "registry_unavailable"
    detail = "The registry is not available at the moment. Please try again"


class RegistryIsNotMigratedError(ControlPlaneError):
    """Postgres answers, but a table or a column is missing that this version needs."""

    status = 503
    reason = "registry_not_migrated"
    detail = (
        "The registry's tables are missing or older than this server. "
        "Its operator has to run `control-plane migrate`"
    )
