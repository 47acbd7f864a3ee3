"""A zoo's pages: how long they take to write, how large the list is, how fast its search answers.

python benchmarks/zoo/site.py            # 200 made-up artifacts in folders
python benchmarks/zoo/site.py --served   # and the same from an embedded Hub, pushed there first

A search is timed in a headless Chromium, from the keystroke to the finished layout. A bound that
is missed is marked, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUPPORT = ("tests/registry/support", "tests/support")
BUILD, LIST, SEARCH = 10.0, 300_000, 50.0  # seconds, bytes, milliseconds
WORDS = ("b", "bi", "bitfit", "bitfit distil", "vera", "nothing of that name")
TYPED = """
(() => {
  const box = document.getElementById('search');
  const start = performance.now();
  box.value = %r;
  box.dispatchEvent(new Event('input', {bubbles: true}));
  document.body.offsetHeight;
  return performance.now() - start;
})()
"""


def main() -> int:
    """Print the figures; 1 where one is beyond its bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--artifacts", type=int, default=200, help="How many (200).")
    parser.add_argument("--served", action="store_true", help="From an embedded Hub, too.")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / folder) for folder in SUPPORT]
    with tempfile.TemporaryDirectory() as folder:
        root = importlib.import_module("zoos").zoo(Path(folder) / "zoo", options.artifacts)
        good = built([str(root)], Path(folder) / "site")
        good &= listed(Path(folder) / "site")
        good &= searched(Path(folder) / "site", Path(folder) / "profile")
        if options.served:
            good &= of_a_hub(root, Path(folder))
    return 0 if good else 1


def built(sources: list[str], to: Path) -> bool:
    """Time collecting and writing."""
    from ftplug_registry.site.collecting import collect
    from ftplug_registry.site.writing import write_site

    start, processor = time.perf_counter(), time.process_time()
    zoo = collect(sources)
    write_site(zoo, to, "Zoo")
    seconds = time.perf_counter() - start
    print(
        f"build from folders: {len(zoo.artifacts)} artifacts in {seconds:.1f} s "
        f"({time.process_time() - processor:.1f} s of this process)"
    )
    return within("build", seconds, BUILD)


def listed(site: Path) -> bool:
    """Print the size of the list."""
    size = (site / "index.html").stat().st_size
    print(f"list page: {size:,} bytes")
    return within("list page", size, LIST)


def searched(site: Path, profile: Path) -> bool:
    """Time searches in a browser; without one there is no figure."""
    browser = importlib.import_module("browser")
    program = browser.found()
    if program is None:
        print(f"search: not measured: none of {', '.join(browser.NAMES)} is installed")
        return True
    with browser.opened(program, profile) as page:
        page.open(site / "index.html", width=1280, dark=False)
        typed = [text for word in WORDS for text in ("", word)] * 10
        times = [page.value(TYPED % text) for text in typed]
    median, most = statistics.median(times), max(times)
    print(f"search: median {median:.1f} ms, longest of {len(times)} {most:.1f} ms")
    return within("search", median, SEARCH)


def of_a_hub(root: Path, folder: Path) -> bool:
    """Push everything to an embedded Hub, and let the command build from there, in a process."""
    from ftplug_registry.server.accounts import Account
    from ftplug_registry.server.embedded import EmbeddedHub

    owners = sorted(path.name for path in root.iterdir())
    accounts = tuple(Account(name) for name in owners)
    hubs = importlib.import_module("hub")
    with EmbeddedHub(folder / "hub", accounts=accounts) as server:
        for owner in owners:
            with hubs.client(server, owner, home=folder / f"home-{owner}") as api:
                for artifact in sorted((root / owner).iterdir()):
                    api.create_repo(f"{owner}/{artifact.name}")
                    api.upload_folder(repo_id=f"{owner}/{artifact.name}", folder_path=artifact)
        places = ["--from", ",".join(owners), "--to", str(folder / "of-a-hub")]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "ftplug", "site", *places],
            env=hubs.environment(server, owners[0], home=folder / "home"),
            check=True,
        )
        seconds = time.perf_counter() - start
    print(f"ftplug site from a Hub in another process, all told: {seconds:.1f} s")
    return within("build from a Hub", seconds, BUILD)


def within(what: str, value: float, bound: float) -> bool:
    """Say where a figure is beyond its bound."""
    if value > bound:
        print(f"{what}: MISSED: {value:,.1f} is more than {bound:,g}")
    return value <= bound


if __name__ == "__main__":
    raise SystemExit(main())
