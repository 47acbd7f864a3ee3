"""Commits written by hand: requests that no client would send, and git itself."""

import base64
import json
import subprocess


def file(path, content=b"content"):
    return {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}


def payload(*operations, **header):
    """Return the body of a commit request: ``operations`` are (key, value) pairs."""
    lines = [("header", {"summary": "a commit"} | header), *operations]
    return "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)


def post(client, *operations, repo="ann/model", branch="main", **header):
    return client.post(
        f"/api/models/{repo}/commit/{branch}", content=payload(*operations, **header)
    )


def git(repository, *arguments, input=None):
    """Return what git prints."""
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], input=input, capture_output=True, check=True
    )
    return done.stdout.decode().strip()
