"""Statistics of many text files: one call for each file, put together as they come.

python main.py FOLDER
"""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import TypedDict

from control_plane import function


class Statistics(TypedDict):
    files: int
    lines: int
    words: int
    most_common: list[tuple[str, int]]


@function(cpu=0.5, memory="256 MiB", max_concurrency=8, max_retries=2)
def count(path: str) -> dict[str, int]:
    """Count each word of a file; the number of its lines stands under the empty word."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    # A result is JSON of at most 250,000 characters; rare words of a long text are left out.
    return {"": text.count("\n")} | dict(words.most_common(10_000))


def put_together(paths: list[str], *, project: str | None = None) -> Statistics:
    """Call `count` for each file, show how far it is, and add up what comes."""
    total: Counter[str] = Counter()
    calls = count.options(project=project).map(paths, ordered=False, progress=True)
    for counts in calls:
        total.update(counts)
    lines = total.pop("", 0)
    return {
        "files": len(paths),
        "lines": lines,
        "words": total.total(),
        "most_common": total.most_common(5),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    files = sorted(str(path) for path in folder.rglob("*") if path.suffix in {".md", ".txt"})
    print(put_together(files, project="text-statistics"))
