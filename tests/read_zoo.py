"""Reads every file of a folder under a memory limit and prints what came out: a process of its own for the zoo."""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path

MEMORY = 2 << 30  # bytes of address space, libraries included


def main(folder: Path) -> None:
    """One JSON object on stdout: name -> corners and size, or reason and message."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from qllava.pictures import PictureError, check_header, open_image

    warnings.simplefilter("error")
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        headed = True
        try:
            check_header(path)
        except PictureError:
            headed = False
        try:
            image = open_image(path)
        except PictureError as error:
            found[path.name] = {"reason": error.reason, "message": str(error), "headed": headed}
            continue
        right, bottom = image.width - 1, image.height - 1
        places = ((0, 0), (right, 0), (0, bottom), (right, bottom))
        corners = [image.getpixel(place) for place in places]
        found[path.name] = {"mode": image.mode, "size": image.size, "corners": corners, "headed": headed}
    print(json.dumps(found))  # noqa: T201 - the result of this process


if __name__ == "__main__":
    main(Path(sys.argv[1]))
