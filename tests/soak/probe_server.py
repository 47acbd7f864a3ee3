"""``make probe``: a thousand odd requests to an embedded Hub whose shelves are full of poison.

Meanwhile 300 clients send half a request each and wait, and another client asks for the list and
for a file, over and over. Ends with a table; 1 where a secret came out, an answer was the server's
error, or that other client waited for longer than a second.
"""

import argparse
import multiprocessing
import random
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "registry" / "support")]
SECRET, SLOW, WITHIN = b"a secret of ann's, 4711", 300, 1.0


class Hub:
    """What a client knows of the Hub in the other process."""

    def __init__(self, endpoint, tokens):
        self.endpoint, self.tokens = endpoint, tokens


def serve(root, channel):
    """Run the Hub until the channel is closed."""
    from ftplug_registry.server.accounts import Account
    from ftplug_registry.server.embedded import EmbeddedHub

    accounts = [Account("ann"), Account("bob")]
    with EmbeddedHub(root, accounts=accounts, lfs_threshold=4096) as server:
        channel.send((server.endpoint, {name: server.token(name) for name in ("ann", "bob")}))
        with suppress(EOFError):
            channel.recv()


def fill(hub, root):
    """Make a private repository, a sound one, and one for each card that poisons lists."""
    import commits
    from ftplug_registry.client import transport
    from probes import HUGE, ODD, card, stored

    ann = {"Authorization": f"Bearer {hub.tokens['ann']}"}
    with transport().Client(base_url=hub.endpoint, headers=ann, trust_env=False) as client:
        sha = None
        for name in ("model", "secret", *(f"odd-{n}" for n in range(len(HUGE | ODD)))):
            made = {"name": name, "private": name == "secret"}
            client.post("/api/repos/create", json=made).raise_for_status()
            content = SECRET if name == "secret" else b"content"
            operations = [("file", commits.file(path, content)) for path in ("a.txt", "README.md")]
            done = commits.post(client, *operations, repo=f"ann/{name}")
            done.raise_for_status()
            sha = done.json()["commitOid"] if name == "secret" else sha
    for number, value in enumerate((HUGE | ODD).values()):
        stored(root, f"ann/odd-{number}", card(value))
    return sha


def slow(hub, over):
    """Hold half-sent requests open, anew as the server closes them."""
    place, links = ("127.0.0.1", int(hub.endpoint.rpartition(":")[2])), []
    while not over.is_set():
        with suppress(OSError):
            links.append(socket.create_connection(place, timeout=5))
            links[-1].sendall(b"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        if len(links) > SLOW:
            links.pop(0).close()
            time.sleep(0.01)
    for link in links:
        link.close()


def witness(hub, over, waited):
    """Ask as anybody would, and note how long it took."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not over.is_set():
        for path in ("/api/models?full=true", "/ann/model/resolve/main/a.txt"):
            start = time.monotonic()
            try:
                with opener.open(hub.endpoint + path, timeout=20) as answer:
                    answer.read()
                waited.append(time.monotonic() - start)
            except OSError:
                waited.append(float("inf"))
        time.sleep(0.02)


def probe(hub, secrets, count, seed):
    """Send requests as nobody, bob, or with a token that is none; yield status and what leaked."""
    from probes import ROUTES, TEXTS, address, body, exchange

    dice = random.Random(seed)
    for _ in range(count):
        method, template = dice.choice(ROUTES)
        if dice.random() < 0.5:
            template = template.replace("{m}", "/api/models/ann/secret")
            template = template.replace("/ann/model", "/ann/secret")
        target, content = address(dice, template), body(dice)
        token = dice.choice([None, hub.tokens["bob"], "x"])
        headers = [f"Authorization: Bearer {token}"] if token else []
        headers.append(f"Range: bytes={dice.choice(TEXTS[:8])}-{dice.randint(0, 9)}")
        if dice.random() < 0.3:
            headers.append("Content-Type: application/json")
        status, answer = exchange(hub, method, target, headers, content)
        yield status, [secret for secret in secrets if secret in answer], (method, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    statuses, leaks, waited, over = Counter(), [], [], threading.Event()
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        root = Path(folder) / "root"
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(root, theirs), daemon=True
        )
        process.start()
        theirs.close()
        hub = Hub(*ours.recv())
        sha = fill(hub, root)
        secrets = [SECRET, sha.encode(), hub.tokens["ann"].encode(), folder.encode(),
                   b"Traceback", b"site-packages", b"root:"]  # fmt: skip
        threads = [threading.Thread(target=slow, args=(hub, over)),
                   threading.Thread(target=witness, args=(hub, over, waited))]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            for status, leaked, request in probe(hub, secrets, asked.count, asked.seed):
                statuses[status] += 1
                leaks += [(secret, request) for secret in leaked]
                if (status >= 500 and status != 501) or leaked:
                    print(status, leaked, *request, flush=True)
        finally:
            over.set()
            for thread in threads:
                thread.join()
            ours.close()
            process.join()
    errors = sum(n for status, n in statuses.items() if status >= 500 and status != 501)
    print(f"{'probes':28}{sum(statuses.values())}  {dict(sorted(statuses.items()))}")
    print(f"{'leaks':28}{len(leaks)}\n{'answers 500':28}{errors}")
    late = sum(seconds > WITHIN for seconds in waited)
    print(f"{'another client, requests':28}{len(waited)}, longest {max(waited):.2f} s, "
          f"{late} beyond {WITHIN:g} s")  # fmt: skip
    return int(bool(leaks or errors or late))


if __name__ == "__main__":
    sys.exit(main())
