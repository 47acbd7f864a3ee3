"""The Hub as the registry sees it: one client, and every failure as one line with its cure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug import __version__
from ftplug.errors import FtplugError, RegistryError, one_line
from ftplug_registry.answers.watching import Watching
from ftplug_registry.client import headers_of, let_watch, not_cached, transport
from ftplug_registry.credentials import own_secrets

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_COMMIT = re.compile(r"[0-9a-fA-F]{7,40}")
_LONGEST_MESSAGE = 300  # characters of what a server says


@dataclass(frozen=True)
class Hub:
    """Where to push and pull: ``HF_ENDPOINT``, the saved token and the usual cache by default."""

    endpoint: str | None = None
    token: str | bool | None = None
    cache_dir: Path | None = None

    @cached_property
    def api(self) -> HfApi:
        """The client, which names ftplug as its user agent."""
        from huggingface_hub import HfApi

        return HfApi(
            endpoint=self.endpoint,
            token=self.token,
            library_name="ftplug",
            library_version=__version__,
            headers=headers_of(self.answers),
        )

    @cached_property
    def answers(self) -> Watching:
        """What the client's requests and their answers are watched by."""
        return Watching(self.api_endpoint)

    @property
    def api_endpoint(self) -> str:
        """Where requests go, also where no client can be made of it."""
        from huggingface_hub import constants

        return self.endpoint or constants.ENDPOINT

    def url(self, repo_id: str) -> str:
        """Return the page of a repository."""
        return f"{self.api_endpoint}/{repo_id}"

    @contextmanager
    def stated_errors(self, action: str, repo_id: str = "") -> Iterator[None]:
        """Watch what the Hub answers; whatever the client raises is a RegistryError of one line."""
        let_watch()
        try:
            with self.answers.action():
                yield
        except FtplugError:
            raise
        except Exception as error:
            reason = self._reason(error, repo_id)
            if reason is None:
                raise
            what = f"{action} {repo_id}".strip()
            raise RegistryError(f"{what}: {reason}") from error

    def _reason(self, error: Exception, repo_id: str) -> str | None:
        """Return what went wrong and what to do; None for what is no failure of a Hub."""
        from huggingface_hub import errors

        http = transport()
        match error:
            case errors.OfflineModeIsEnabled():
                return "offline mode is on: unset HF_HUB_OFFLINE, or use what was pulled before"
            case errors.HfHubHTTPError():
                return self._refusal(error, repo_id)
            case errors.LocalTokenNotFoundError():
                return "no token on this machine: hf auth login, or set HF_TOKEN"
            case _ if isinstance(error, not_cached()):
                return (
                    f"{self.api_endpoint} cannot be reached and the cache does not hold this "
                    "revision: pull it once while online"
                )
            case http.TimeoutException():
                return f"{self.api_endpoint} does not answer: try again"
            case http.HTTPError() | ConnectionError():
                return (
                    f"{self.api_endpoint} cannot be reached ({_short(error)}): check the "
                    "network and HF_ENDPOINT"
                )
            case RuntimeError() if isinstance(error.__cause__, Exception):
                return self._reason(error.__cause__, repo_id)  # an upload in a thread
            case ValueError() if "metadata" in str(error) or "LFS" in str(error):
                return _short(error)
            case OSError():
                return _short(error)
        if _raised_in_client(error):
            return (
                f"{self.api_endpoint} does not answer as a Hub does, or the settings for it are "
                f"wrong ({type(error).__name__}: {_short(error)}): check HF_ENDPOINT, "
                "HF_TOKEN and the proxy variables"
            )
        return None

    def _refusal(self, error: HfHubHTTPError, repo_id: str) -> str:
        """Return the cure for an answer of the server, by its status."""
        from huggingface_hub import errors

        status = error.response.status_code
        said = _short(error.server_message or error.response.headers.get("X-Error-Message", ""))
        told = f": {said}" if said else ""
        if isinstance(error, errors.GatedRepoError):
            return f"gated: accept its conditions at {self.url(repo_id)}, then try again"
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"no such repository at {self.api_endpoint}, or it is private and the token may "
                "not see it: check the name; hf auth login, or set HF_TOKEN"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return "no such branch, tag or commit: check --revision"
        if isinstance(error, errors.EntryNotFoundError):
            return f"the repository lacks a file{told}"
        cures = {
            400: "the server refused what was sent",
            401: "the token was not accepted (401): hf auth login, or set HF_TOKEN",
            403: "the token may not do this (403): use one with write access to this namespace",
            404: "not found (404): check the name and HF_ENDPOINT",
            409: "it exists already, or conflicts with what is there (409)",
            412: "the branch moved meanwhile (412): run the same command again",
            413: "too large for this server (413)",
            429: "too many requests (429): wait a minute, then run the same command again",
        }
        if status >= 500:
            return f"the server failed ({status}): run the same command again{told}"
        return f"{cures.get(status, f'the server answered {status}')}{told}"


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no full repository id: without a namespace it would be somebody's guess."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not isinstance(repo_id, str):
        raise RegistryError(f"a repository id is a text like org/name, not {repo_id!r}")
    try:
        validate_repo_id(repo_id)
        reason = "" if "/" in repo_id else "the namespace (a user or organisation) is missing"
    except HFValidationError as error:
        reason = _short(error)
    if reason:
        raise RegistryError(f"{repo_id!r} is not a repository id, like org/name: {reason}")


def check_revision(repo_id: str, revision: str | None) -> None:
    """Refuse an empty revision: it is a variable that nobody set, and would mean main."""
    if revision is not None and not revision.strip():
        raise RegistryError(f"{repo_id}: the revision is empty: name a branch, tag or commit")


def check_ref(kind: str, name: str | None) -> None:
    """Refuse a branch or tag that git would refuse, before anything is sent."""
    if name is None:
        return
    text = name if isinstance(name, str) else ""
    odd = not _REF.fullmatch(text) or ".." in text or text.endswith((".lock", "/", "."))
    if odd or text == "HEAD":
        raise RegistryError(f"{name!r} is no name for a {kind}: letters, digits and . _ - / do")
    if _COMMIT.fullmatch(text):
        raise RegistryError(
            f"{name!r} is no name for a {kind}: 7 to 40 hex digits read as a commit: add a letter "
            "beyond f, or a sign"
        )


def refuse_beside(repo_id: str, tag: str, tags: Iterable[str]) -> None:
    """Refuse a tag that git cannot hold beside another: a ref is a file, or a folder of them."""
    for other in sorted(tags):
        if other.startswith(f"{tag}/") or tag.startswith(f"{other}/"):
            there, shorter = one_line(other), one_line(min(tag, other, key=len))
            raise RegistryError(
                f"{repo_id}: there is a tag {there}: git holds {shorter} or tags that begin with "
                f"{shorter}/, not both: choose another name than {one_line(tag)}"
            )


def _raised_in_client(error: Exception) -> bool:
    """Whether an error comes out of the client libraries rather than out of our own code."""
    trace, module = error.__traceback__, ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return module.partition(".")[0] not in {"ftplug", "ftplug_registry"}


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of a client's error."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _short(error: object) -> str:
    """Return one line of bounded length without a secret of this machine."""
    text = one_line(error)
    for secret in own_secrets().values():  # whoever echoes it
        text = text.replace(secret, "…")
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"
