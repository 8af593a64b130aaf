"""Which server is meant, and with which key: named profiles in a file, and the environment.

The file is `$XDG_CONFIG_HOME/control-plane/config.toml`, or `~/.config/control-plane/config.toml`
where that is not set. It is for its owner only:

    default = "home"

    [profiles.home]
    url = "http://127.0.0.1:8000"
    key = "..."
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from control_plane.errors import ConfigurationError

URL_VARIABLE = "CONTROL_PLANE_API_URL"
KEY_VARIABLE = "CONTROL_PLANE_API_KEY"
PROFILE_VARIABLE = "CONTROL_PLANE_PROFILE"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A server and the key for it."""

    url: str
    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """What the file holds."""

    profiles: Mapping[str, Profile] = field(default_factory=dict)
    default: str | None = None
    """The profile that is meant where none is named; the only one, if it is the only one."""

    def with_profile(self, name: str, profile: Profile, *, as_default: bool = True) -> "Profiles":
        """Give these profiles with one added or replaced."""
        default = name if as_default or self.default is None else self.default
        return replace(self, profiles={**self.profiles, name: profile}, default=default)

    def without_profile(self, name: str) -> "Profiles":
        """Give these profiles without one."""
        left = {other: profile for other, profile in self.profiles.items() if other != name}
        return replace(self, profiles=left, default=None if self.default == name else self.default)

    def choose(self, name: str | None = None) -> Profile | None:
        """Give a profile by its name, or the default one; None if there is no default.

        Raises:
            ConfigurationError: there is no profile of this name.
        """
        wanted = name or self.default
        if wanted is None:
            return next(iter(self.profiles.values())) if len(self.profiles) == 1 else None
        try:
            return self.profiles[wanted]
        except KeyError:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise ConfigurationError(
                f"There is no profile {wanted!r} in {profiles_file()}; there are: {known}"
            ) from None


def profiles_file(environment: Mapping[str, str] | None = None) -> Path:
    """Give the path of the file, which need not exist."""
    values = os.environ if environment is None else environment
    base = values.get("XDG_CONFIG_HOME", "")
    # The specification wants a relative path to be ignored.
    folder = Path(base) if base.startswith("/") else Path.home() / ".config"
    return folder / "control-plane" / "config.toml"


def load_profiles(path: Path | None = None) -> Profiles:
    """Read the file; without one there are no profiles.

    Raises:
        ConfigurationError: it cannot be read, or does not hold what it should.
    """
    # Imported here: where the environment names the server, no file is read.
    import tomllib  # noqa: PLC0415 - see above

    file = path or profiles_file()
    try:
        content = tomllib.loads(file.read_text("utf-8"))
        profiles = {
            name: Profile(url=_text(table["url"]), key=_text(table["key"]))
            for name, table in content.get("profiles", {}).items()
        }
        default = content.get("default")
        return Profiles(profiles=profiles, default=None if default is None else _text(default))
    except FileNotFoundError:
        return Profiles()
    except KeyError as error:
        raise ConfigurationError(f"{file}: a profile has no {error}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from None


def save_profiles(profiles: Profiles, path: Path | None = None) -> Path:
    """Write the file, readable for its owner only, as a whole or not at all.

    Returns:
        The file's path.

    Raises:
        OSError: it cannot be written.
    """
    file = path or profiles_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".config-")
    try:
        # mkstemp makes files with the mode 0600.
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(_toml(profiles))
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return file


def find_server(
    url: str | None = None, key: str | None = None, *, profile: str | None = None
) -> Profile:
    """Find out which server is meant: arguments, then the environment, then the file.

    A profile that is named as an argument goes before the environment's URL and key; one that is
    named by `CONTROL_PLANE_PROFILE` after them. The key of a profile is never sent to any other
    server than the profile's own.

    Raises:
        ConfigurationError: nothing says which server or which key.
    """
    named = load_profiles().choose(profile) if profile is not None else None
    if named is None:
        found_url = url or os.environ.get(URL_VARIABLE)
        found_key = key or os.environ.get(KEY_VARIABLE)
    else:
        found_url, found_key = url or named.url, key
    if found_url is not None:
        found_url = check_url(found_url)
    if not (found_url and found_key):
        chosen = named or load_profiles().choose(os.environ.get(PROFILE_VARIABLE))
        if chosen is not None and found_url in (None, check_url(chosen.url)):
            found_url, found_key = check_url(chosen.url), found_key or chosen.key
    if not found_url:
        raise ConfigurationError(
            f"Which server? Set {URL_VARIABLE} and {KEY_VARIABLE}, or run `control-plane login`"
        )
    if not found_key:
        raise ConfigurationError(
            f"No key for {found_url}. Set {KEY_VARIABLE}, or run `control-plane login`"
        )
    if not (found_key.isascii() and found_key.isprintable()):
        raise ConfigurationError(f"The key for {found_url} holds characters that no key has")
    return Profile(url=found_url, key=found_key)


def check_url(url: str) -> str:
    """Give the address without a slash at its end.

    Raises:
        ConfigurationError: it is no http or https address.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise ConfigurationError(f"{url!r} is no http or https address of a server")
    return url.rstrip("/")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value


def _toml(profiles: Profiles) -> str:
    lines = [] if profiles.default is None else [f"default = {_quoted(profiles.default)}", ""]
    for name, profile in profiles.profiles.items():
        lines += [
            f"[profiles.{_quoted(name)}]",
            f"url = {_quoted(profile.url)}",
            f"key = {_quoted(profile.key)}",
            "",
        ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    # A JSON text is a TOML text but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
