"""The names of the commands, and what the help page of `control-plane` says about each.

So that page, and the completion of a command's name, import no command. A command's own module is
imported when the command is used, and may import what it needs at its top.
"""

SDK_COMMANDS = {
    "cancel": ("cancel:cancel", "Cancel calls and what they have called."),
    "completion": ("completion:completion", "Print the script for completion in a shell."),
    "delete": ("delete:delete", "Delete a project."),
    "deploy": ("deploy:deploy", "Upload code and register a version of it."),
    "describe": ("describe:describe", "Tell all about a call, project or function."),
    "invoke": ("invoke:invoke", "Call a function and print its result."),
    "list": ("list:list_", "List projects, functions or calls."),
    "login": ("login:login", "Keep the address and key of a server."),
    "logout": ("login:logout", "Forget a server and its key."),
    "logs": ("logs:logs", "Print what a call has written."),
    "open": ("open:open_", "Print a call's address in Temporal's UI."),
    "profiles": ("profiles:profiles", "List the servers that login has kept."),
    "retry": ("retry:retry", "Make a call again."),
    "ui": ("open:ui", "Print an address that opens Temporal's UI."),
}
"""Each with its module and object in `control_plane.commands`, and its help in
short."""

SERVER_COMMANDS = {
    "api": "Serve the HTTP API.",
    "demo": "Start a stack in a temporary folder, call the example's functions, show what happens.",
    "loop": "Run the Temporal worker; `loop` is the same as `worker`.",
    "migrate": "Create or update the tables of the registry.",
    "openapi": "Write the OpenAPI document of the HTTP API.",
    "run": "Deploy and call a function, without a server if need be.",
    "temporal": "Run a command of Temporal's own CLI, for the embedded Temporal.",
    "up": "Run everything on this machine: Postgres, Temporal with its web UI, API and Temporal "
    "worker.",
    "worker": "Run the Temporal worker; `loop` is the same as `worker`.",
}
"""The commands that the server adds through its entry points, each with the first sentence
of its help.

They are not listed where the server is not installed, but explained to those who try them.
"""
