"""A package that can be installed without any index."""

import base64
import hashlib
import io
import zipfile


def make_wheel(name: str, value: int) -> bytes:
    """A package with one module that has one `value`."""
    folder = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"value = {value}\n",
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{folder}/RECORD,,\n"
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        record += f"{path},sha256={digest.decode().rstrip('=')},{len(text)}\n"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for path, text in {**files, f"{folder}/RECORD": record}.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
    return content.getvalue()


WHEEL = "vendor/tiny-1.0-py3-none-any.whl"
"""Where projects of the tests keep it."""
TINY = make_wheel("tiny", 42)
