"""Finding tokens and keys in text before it is published."""

from __future__ import annotations

import os
import re

# The documented forms of the tokens that lie around on machines that train models.
_FORMS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google API key": r"\bAIza[A-Za-z0-9_-]{35}",
    "an OpenAI or Anthropic key": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a Slack token": r"\bxox[abposr]-[A-Za-z0-9-]{20,}",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
}
_PATTERN = re.compile(
    "|".join(f"(?P<k{number}>{form})" for number, form in enumerate(_FORMS.values()))
)
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY)$", re.IGNORECASE)
_SHORTEST = 12  # characters of a secret in the environment; a shorter one would be in any text


def credential_in(text: str) -> str | None:
    """Return what kind of token or key a text holds and in which line, never the secret itself."""
    if found := _PATTERN.search(text):
        kind = list(_FORMS)[int(str(found.lastgroup)[1:])]
        return f"{kind} in line {_line(text, found.start())}"
    for name, secret in own_secrets().items():
        if (start := text.find(secret)) >= 0:
            return f"the value of {name} in line {_line(text, start)}"
    return None


def own_secrets() -> dict[str, str]:
    """Return this machine's Hub token and the secrets in the environment, by name."""
    from huggingface_hub import get_token

    found = {
        name: value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST
    }
    if (token := get_token()) and len(token) >= _SHORTEST:
        found["your Hub token"] = token
    return found


def _line(text: str, start: int) -> int:
    return text.count("\n", 0, start) + 1
