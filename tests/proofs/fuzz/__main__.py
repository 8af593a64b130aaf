"""Sends what the OpenAPI document allows, and what it does not, to a whole running control plane.

A finding is a 5xx; a status, header, content type or body that the document does not name; a
request that is accepted against the document, or refused although it fits; one that needs no key.
See CONTRIBUTING.md, "Fuzzing the API".
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

from runtime.logging import configure_logging
from standalone.options import StackOptions
from standalone.stack import Stack, running_stack
from tests.support.harness import eventually, function_spec

_FOLDER = Path(__file__).parent
_PROGRAM = Path(sys.executable).with_name("schemathesis")
_EXCLUDED_CHECKS = (
    # Insists on 401 without a key; the contract has 403. `ignored_auth` looks for missing keys too.
    "missing_required_header",
    # A deleted project is there until its last invocation has ended.
    "use_after_free",
)
_PASSES = (
    ("schemathesis.toml", ()),
    # What exists is to live until the end.
    ("existing.toml", ("--exclude-operation-id", "delete_project")),
)


async def _make_one_of_each(stack: Stack, *, project: str) -> dict[str, str]:
    """Returns the variables that name them in `existing.toml`."""

    async def call(method: str, path: str, body: object = None) -> Any:
        async with http.request(method, path, json=body) as answer:
            return await answer.json()

    async with aiohttp.ClientSession(
        base_url=stack.api_url,
        headers={"Authorization": f"Bearer {stack.api_key.get_secret_value()}"},
        raise_for_status=True,
    ) as http:
        await call("PUT", f"/projects/{project}")
        version = await call(
            "POST",
            f"/projects/{project}/versions",
            {"default_docker_image": "image", "functions": [function_spec("f", timeout=86_400)]},
        )
        path = f"/projects/{project}/versions/{version['version_id']}/functions/f/invocations"
        invocation = await call("POST", path, {"input": "input"})
        path = f"{path}/{invocation['invocation_id']}"
        seen = await eventually(lambda: call("GET", path), lambda seen: seen["executions"])
    return {
        "FUZZ_API_KEY": stack.api_key.get_secret_value(),
        "FUZZ_PROJECT": project,
        "FUZZ_VERSION": version["version_id"],
        "FUZZ_FUNCTION": "f",
        "FUZZ_INVOCATION": invocation["invocation_id"],
        "FUZZ_EXECUTION": seen["executions"][0]["execution_id"],
    }


async def _schemathesis(*arguments: str, variables: dict[str, str], folder: Path) -> int:
    process = await asyncio.create_subprocess_exec(
        _PROGRAM, *arguments, env={**os.environ, **variables}, cwd=folder
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _fuzz(folder: Path, *, seconds: int, options: list[str]) -> int:
    # The workers of this provisioner are nothing: any number of them can be asked for.
    stack_options = StackOptions(
        data_folder=folder / "stack", provisioner="dev", api_port=0, durable=False
    )
    results = []
    async with running_stack(stack_options) as stack:
        for number, (config, special) in enumerate(_PASSES):
            results.append(
                await _schemathesis(
                    "--config-file",
                    str(_FOLDER / config),
                    "run",
                    f"{stack.api_url}/openapi.json",
                    "--checks=all",
                    f"--exclude-checks={','.join(_EXCLUDED_CHECKS)}",
                    f"--max-time={max(seconds // len(_PASSES), 1)}",
                    *special,
                    *options,
                    variables=await _make_one_of_each(stack, project=f"fuzz-{number}"),
                    folder=folder,
                )
            )
    return max(results)


def _main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.proofs.fuzz",
        description=__doc__,
        epilog="Other options are handed on to `schemathesis run`.",
    )
    parser.add_argument("--seconds", type=int, default=120, help="time for requests, in all")
    parser.add_argument("--seed", type=int, help="of the data that is sent; random if not given")
    arguments, others = parser.parse_known_args()
    configure_logging(level="ERROR")
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed  # noqa: S311 - no secret
    print(f"The same data again: make fuzz ARGS='--seed {seed}'", flush=True)
    with tempfile.TemporaryDirectory(prefix="control-plane-fuzz-") as name:
        # Postgres may run as another user, who must get through to its own folder below.
        Path(name).chmod(0o711)
        options = [f"--seed={seed}", *others]
        return asyncio.run(_fuzz(Path(name), seconds=arguments.seconds, options=options))


if __name__ == "__main__":
    sys.exit(_main())
