"""Methods on every class of transformers that builds small; docs/architectures.md has what came.

python tools/sweep.py                 all classes; goes on where it was stopped; renews the page
python tools/sweep.py --only Bert     those whose name holds a text, anew; renews the page
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sweep_page

TOOLS = Path(__file__).resolve().parent
ROWS = TOOLS.parent / ".venv/sweep.jsonl"  # of a sweep under way
SILENT = 90  # seconds without a word from a process, which limits itself to less
MEMORY = 9 * 2**30  # bytes of one process

Rows = list[dict[str, Any]]


def serve(name: str, task: str, sender: Connection) -> None:
    """Try one class, in a process of its own, and send each outcome."""
    import resource
    import warnings

    import torch
    import transformers
    import trial

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.nice(5)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity(60)
    for row in trial.tried(name, task):
        sender.send(row)
    sender.send(None)


def in_a_process(name: str, task: str) -> Rows:
    """Return the outcomes of one class; a crash or a hang is the outcome of what was running."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(name, task, sender), daemon=True)
    process.start()
    sender.close()
    rows: Rows = []
    end = "hangs"
    try:
        while receiver.poll(SILENT):
            if (row := receiver.recv()) is None:
                return rows
            rows.append(row)
    except EOFError:
        end = "crashes"
    finally:
        process.kill()
        process.join()
    about = {"model": name, "task": task, "line": f"its process {end}"}
    return [*rows, about | ({"method": "next", "end": "dies"} if rows else {"end": "not built"})]


def sweep(chosen: Iterable[tuple[str, str]], workers: int) -> Iterator[Rows]:
    """Yield the outcomes of classes, several of which are tried at once."""
    os.environ["PYTHONPATH"] = str(TOOLS)  # the server that processes are forked from needs it
    multiprocessing.get_context("forkserver").set_forkserver_preload(["preloaded"])
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda pair: in_a_process(*pair), chosen)


def stored() -> dict[str, Rows]:
    """Return the outcomes of the sweep under way, by class."""
    found: dict[str, Rows] = {}
    if ROWS.exists():
        for line in ROWS.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found.setdefault(row["model"], []).append(row)
    return found


def shuffled(classes: dict[str, str]) -> list[tuple[str, str]]:
    """Return classes and their tasks in an order in which any part has something of all."""
    return sorted(classes.items(), key=lambda pair: zlib.crc32(pair[0].encode()))


def main() -> None:
    """Try what was asked for and renew the page; fails where a combination dies."""
    import small_model

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    options = parser.parse_args()
    done = stored()
    left = [(name, task) for name, task in shuffled(small_model.classes())
            if options.only in name and (options.only or name not in done)]  # fmt: skip
    with ROWS.open("a", encoding="utf-8") as file:
        for rows in sweep(left, options.workers):
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            print(rows[0]["model"], sweep_page.code(rows), flush=True)
            done[rows[0]["model"]] = rows
    sweep_page.renew(done)
    if dying := [row for rows in done.values() for row in rows if row["end"] == "dies"]:
        raise SystemExit("\n".join(f"{r['model']} {r['method']}: {r['line']}" for r in dying))


if __name__ == "__main__":
    main()
