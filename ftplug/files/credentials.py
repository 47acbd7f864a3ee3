"""Finding tokens and keys in text before it is published or shown."""

from __future__ import annotations

import codecs
import json
import os
import re

# The documented forms of the tokens that lie around on machines that train models.
_FORMS = {
    "a Hugging Face token": r"(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a GitHub token": r"(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|aws_secret_access_key\W{1,5}[\w/+]{40}",
    "a Google API key": r"\bAIza[A-Za-z0-9_-]{35}",
    "an OpenAI or Anthropic key": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a Slack token": r"\bxox[abposr]-[A-Za-z0-9-]{20,}",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an npm token": r"\bnpm_[A-Za-z0-9]{36}",
    "a Docker token": r"\bdckr_pat_[A-Za-z0-9_-]{20,}",
    "a PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "an address with a password": r"\b[a-z][a-z0-9+.-]{1,10}://[^\s/:@]{1,100}:[^\s/:@]{3,100}@",
}
_PATTERN = re.compile(
    "|".join(f"(?P<k{number}>{form})" for number, form in enumerate(_FORMS.values()))
)
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY)$", re.IGNORECASE)
_SHORTEST = 12  # characters of a secret in the environment; a shorter one would be in any text
_LEAST = 11  # characters of what has one of the forms: ab://c:def@
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8"}


def decoded(data: bytes) -> str:
    """Return what a file says, whatever Unicode encoding its byte-order mark names."""
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    return data.decode(encoding, errors="ignore")


def credential_in(text: str) -> str | None:
    """Return what kind of token or key a text holds and in which line, never the secret itself.

    JSON's escapes (``\\u0068f_…``) are read as well.
    """
    plain = re.sub(r"\\u([0-9a-fA-F]{4})", lambda escape: chr(int(escape[1], 16)), text)
    for version in dict.fromkeys((text, plain)):
        if match := _PATTERN.search(version):
            kind = list(_FORMS)[int(str(match.lastgroup)[1:])]
            return f"{kind} in line {_line(version, match.start())}"
        for name, secret in own_secrets().items():
            for spelled in (secret, json.dumps(secret)[1:-1]):
                if (start := version.find(spelled)) >= 0:
                    return f"the value of {name} in line {_line(version, start)}"
    return None


def masked(text: str) -> str:
    """Return a text with the name of its kind in the place of every token and key."""
    if len(text) < _LEAST:  # asking what this machine's secrets are takes longer than all else
        return text
    kinds = list(_FORMS)
    text = _PATTERN.sub(lambda found: f"[{kinds[int(str(found.lastgroup)[1:])]}]", text)
    for name, secret in own_secrets().items():
        for spelled in (secret, json.dumps(secret)[1:-1]):
            text = text.replace(spelled, f"[the value of {name}]")
    return text


def is_secret_name(name: str) -> bool:
    """Whether an option or variable of this name holds what nobody else should see."""
    return bool(_SECRET_NAME.search(name.replace("-", "_")))


def own_secrets() -> dict[str, str]:
    """Return this machine's Hub token and the secrets in the environment, by name."""
    from huggingface_hub import get_token

    secrets = {
        name: value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST
    }
    try:
        token = get_token()
    except OSError:  # HF_TOKEN_PATH leads to no file
        token = None
    if token and len(token) >= _SHORTEST:
        secrets["your Hub token"] = token
    return secrets


def _line(text: str, start: int) -> int:
    return text.count("\n", 0, start) + 1
