"""Print the oldest supported version of each dependency, as constraints for pip."""

import re
from pathlib import Path

FLOOR = re.compile(r'^\s*"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)', re.MULTILINE)

project = Path(__file__, "../../pyproject.toml").resolve().read_text(encoding="utf-8")
dependencies = project.partition("\ndependencies = [")[2].partition("\n]")[0]
for name, version in FLOOR.findall(dependencies):
    print(f"{name}=={version}")
