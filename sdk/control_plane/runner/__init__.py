"""The runner: the program inside a worker that executes one function call and reports back.

It is started as `python -I -S <home>/control_plane/runner/__main__.py` (isolated: the function sees
the standard library, its project folder and this package) or as `python -m control_plane.runner`.
It needs the standard library only.

Environment: `CONTROL_PLANE_PROJECT_NAME`, `CONTROL_PLANE_VERSION_ID`,
`CONTROL_PLANE_FUNCTION_NAME`, `CONTROL_PLANE_INVOCATION_ID`, `CONTROL_PLANE_EXECUTION_ID`,
`CONTROL_PLANE_API_URL`, `CONTROL_PLANE_API_KEY`, and `CONTROL_PLANE_PROJECT_FOLDER` (default: the
current folder). Names with `MULTINODE_` in place of `CONTROL_PLANE_` are read where these lack.

Which function: `name` is an attribute of the project's module `main`; `module:name` is an attribute
of that module, which may be dotted.

Input: a JSON text. An object holds the keyword arguments, an array the positional arguments; null
or an empty text means no arguments; any other value is the one argument.

Output: the return value as JSON, at most 250,000 characters. A generator, plain or async, reports
each value that it yields as the latest output; its return value is ignored. A coroutine function
runs in an asyncio event loop.

SIGTERM: `InvocationTimedOut` or `InvocationCancelled` is raised where the function stands. In an
async function it is raised at the await where the function's own coroutine waits; other tasks that
this await depends on are cancelled in the way of asyncio. If nothing else leaves the function, the
outcome is ABORTED.

Exit status:
    0: SUCCEEDED was reported.
    1: FAILED was reported.
    2: A variable of the environment is missing or wrong.
    3: Another worker has started this execution; the function did not run.
    4: The execution was ended from outside; nothing more can be reported.
    5: The API could not be reached, or refused a report.
    143: ABORTED was reported.
"""
