"""What can go wrong with the embedded servers, in words for the person who started them."""


class StandaloneError(Exception):
    """Base of this package's errors. The text says what to do; print it without a traceback."""


class ServerFailedError(StandaloneError):
    """An embedded server could not be started; the text ends with the tail of its log."""


class DataFolderError(StandaloneError):
    """A data folder cannot be used: not ours, not reachable, or incomplete."""


class DataFolderIsInUseError(DataFolderError):
    """Another process is the owner of the data folder, or its server still runs."""


class PostgresVersionError(StandaloneError):
    """The Postgres binaries are too old, or of another major version than the data."""


class PortIsTakenError(StandaloneError):
    """Something else listens on a port that was asked for explicitly."""

    def __init__(self, port: int, what: str) -> None:
        self.port = port
        self.what = what
        super().__init__(
            f"Port {port} for {what} is taken. Stop what uses it, or choose another port"
        )


class NoNetworkOfItsOwnError(StandaloneError):
    """This machine does not let us make a network namespace for the embedded Temporal."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The embedded Temporal gets no network of its own here ({reason}), so every account "
            "of this machine, and every function, could command it. Start control-plane as root, "
            "or have user namespaces allowed (`sysctl user.max_user_namespaces`, and on Ubuntu "
            "`kernel.apparmor_restrict_unprivileged_userns`), or set TEMPORAL_ADDRESS to a "
            "Temporal of yours, or accept it with --temporal-open"
        )
