"""Print the lowest version of each package that `pyproject.toml` allows, as constraints for pip."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in (*project["dependencies"], *extras["test"]):
    found = re.match(r"([\w.-]+)>=([\w.]+)[^;]*(;.*)?", requirement)
    if found is None:
        sys.exit(f"{requirement!r} has no lower bound")
    print(f"{found[1]}=={found[2]}{found[3] or ''}")
