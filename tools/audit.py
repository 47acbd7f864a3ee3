"""Known vulnerabilities of what constraints.txt pins, and an SBOM: ``make audit``.

pip-audit calls it a success when its service knows none of the packages, as behind a mirror: here
that is skipped, with the reason, and nothing is called sound that was not asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BIN = ROOT / ".venv" / "audit" / "bin"
SBOM = ROOT / ".venv" / "sbom.cdx.json"


def main() -> int:
    """Write the SBOM and print what is known; 1 where something is vulnerable or was not asked."""
    made = [str(BIN / "cyclonedx-py"), "environment", "--output-reproducible"]
    made += ["--output-format", "JSON", "--output-file", str(SBOM), sys.executable]
    subprocess.run(made, check=True, stderr=subprocess.DEVNULL)
    count = len(json.loads(SBOM.read_text(encoding="utf-8"))["components"])
    print(f"{SBOM.relative_to(ROOT)}: {count} components (CycloneDX)")
    with tempfile.TemporaryDirectory() as folder:
        code, text = judged(*_audited(Path(folder) / "audit.json"))
    print(text)
    return code


def _audited(report: Path) -> tuple[dict[str, Any] | None, str]:
    """Return what pip-audit reports of the pinned versions, or None and the reason."""
    asked = [str(BIN / "pip-audit"), "--requirement", str(ROOT / "constraints.txt"), "--no-deps"]
    asked += ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(
        [*asked, "--output", str(report)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    if report.is_file():
        return json.loads(report.read_text(encoding="utf-8")), ""
    return None, (done.stderr.strip().splitlines() or ["it said nothing"])[-1]


def judged(report: Mapping[str, Any] | None, reason: str) -> tuple[int, str]:
    """Return exit code and text for pip-audit's report, or for the reason that there is none."""
    if report is None:
        offline = any(word in reason for word in ("Connection", "Timeout", "ProxyError"))
        return int(not offline), f"audit {'skipped' if offline else 'failed'}: {reason}"
    known = [entry for entry in report["dependencies"] if "skip_reason" not in entry]
    unknown = [entry["name"] for entry in report["dependencies"] if "skip_reason" in entry]
    if not known:
        return 0, f"audit skipped: the service answers for none of the {len(unknown)} packages"
    lines = [
        f"{entry['name']} {entry['version']}: {vulnerability['id']}, "
        f"mended in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for entry in known
        for vulnerability in entry["vulns"]
    ]
    lines += [f"not audited, unknown to the service: {', '.join(unknown)}"] if unknown else []
    return int(bool(lines)), "\n".join([*lines, f"audited: {len(known)} packages"])


if __name__ == "__main__":
    sys.exit(main())
