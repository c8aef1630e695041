"""Print what pip-audit knows of the packages of an environment, given as its `--format json`."""

import json
import sys
from pathlib import Path

try:
    packages = json.loads(Path(sys.argv[1]).read_text())["dependencies"]
except (OSError, ValueError):  # the advisories could not be reached
    packages = []
audited = [package for package in packages if "skip_reason" not in package]
print(f"{len(audited)} of {len(packages)} packages could be audited")
for package in audited:
    for known in package["vulns"]:
        fixed = ", ".join(known["fix_versions"]) or "no release"
        print(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
