"""``ftplug keygen``, ``sign`` and ``trust``: whose artifacts these are, and whose are accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftplug.cli import printable


def keygen(
    key: Annotated[Path, typer.Argument(metavar="KEY", help="The private key's file to write.")],
    curve: Annotated[str, typer.Option("--curve", help="P-256, P-384 or P-521 (ECDSA).")] = "P-256",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for one, to encrypt the private key with.")
    ] = False,
    rotates: Annotated[
        Path | None,
        typer.Option("--rotates", metavar="OLD", help="Let this key say that the new one follows."),
    ] = None,
) -> None:
    """Make a key pair to sign artifacts with: KEY (for you alone, mode 0600) and KEY.pub.

    Neither is ever overwritten. With --passphrase, or FTPLUG_KEY_PASSPHRASE in the environment, the
    private key is encrypted. With --rotates the old key signs KEY.rotation, which goes along with
    all that the new one signs.

    Example: ftplug keygen keys/alice
    """
    from ftplug_registry.signing.keys import ask_passphrase, checked, generate, read_private
    from ftplug_registry.signing.rotating import rotate
    from ftplug_registry.signing.trusted import line_for

    old = read_private(rotates, lambda: ask_passphrase(rotates)) if rotates else None
    public = generate(key, _new_passphrase(passphrase), curve)
    if rotates and old:
        rotate(rotates, old, key, public)
        former = checked(old.public_key(), rotates)
        typer.echo(f"{key}.rotation: says that it follows {former.fingerprint}")
    typer.echo(f"{key}: keep it to yourself. {key}.pub: give it to who shall trust you")
    typer.echo(f"fingerprint {public.fingerprint}; a line for somebody's trusted_keys:")
    typer.echo(line_for("YOUR-NAME", public))


def sign(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="Your private key, from ftplug keygen.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="A certificate (PEM) of that key.")
    ] = None,
    chain: Annotated[
        list[Path],
        typer.Option("--chain", help="Certificates (PEM) between that one and its authority."),
    ] = [],  # noqa: B006 - typer reads the default
    keyless: Annotated[
        bool, typer.Option("--keyless", help="By your account, through Sigstore: needs a network.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Sign anew what is signed already.")
    ] = False,
) -> None:
    """Sign an artifact: model.sig, in the format of OpenSSF model signing, and its provenance.

    Every file but the card is covered; nothing of them is changed, and no network is needed. A
    passphrase is asked for, or taken from FTPLUG_KEY_PASSPHRASE.

    Example: ftplug sign adapter --key keys/alice
    """
    from ftplug.errors import FtplugError
    from ftplug_registry.signing.keyless import sign_keyless
    from ftplug_registry.signing.making import Signer
    from ftplug_registry.signing.making import sign as sign_with

    if keyless == (key is not None):
        raise FtplugError("sign: name a --key (ftplug keygen makes one), or say --keyless")
    if keyless:
        sign_keyless(directory, replace=replace)
        typer.echo(f"{directory}: signed by your account at Sigstore")
        return
    signer = Signer.of(str(key), certificate=certificate, chain=tuple(chain))
    sign_with(directory, signer, replace=replace)
    typer.echo(f"{directory}: signed, key {signer.public.fingerprint}")


def trust(
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="Whose signer: org/name.")],
    key: Annotated[
        Path | None, typer.Argument(metavar="KEY", help="Its public key: a .pub file.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget who signed it: the next one seen is pinned.")
    ] = False,
) -> None:
    """Pin the key that signs a repository from now on, as you know it from its owner.

    Without KEY it prints which one is pinned.

    Example: ftplug trust org/my-adapter alice.pub
    """
    from ftplug.errors import FtplugError
    from ftplug_registry.hub import Hub, check_repo_id
    from ftplug_registry.signing.keys import read_public
    from ftplug_registry.signing.pins import Pin, Repository, pin_anyway, pin_of

    check_repo_id(repo_id)
    here = Repository(Hub().api_endpoint, repo_id, "")
    if forget and key:
        raise FtplugError("trust: either a KEY, or --forget")
    if forget:
        pin_anyway(here, None)
        typer.echo(f"{repo_id}: whoever signs it when it is next pulled is pinned")
    elif key is None:
        pinned = pin_of(here)
        typer.echo(f"{repo_id}: {printable(pinned.key) if pinned else 'nobody is pinned'}")
    else:
        public = read_public(key)
        pin_anyway(here, Pin(here.endpoint, repo_id, public.fingerprint, public.pem, None))
        typer.echo(f"{repo_id}: {public.fingerprint} is pinned")


def _new_passphrase(asked: bool) -> str | None:
    """Return the passphrase of a new key: of the environment, or typed twice; None for none."""
    import getpass
    import os
    import sys

    from ftplug.errors import FtplugError
    from ftplug_registry.signing.keys import PASSPHRASE

    if PASSPHRASE in os.environ:
        return os.environ[PASSPHRASE]
    if not asked:
        return None
    if not sys.stdin.isatty():
        raise FtplugError(f"keygen: --passphrase needs a terminal: or set {PASSPHRASE}")
    first = getpass.getpass("passphrase: ")
    if not first or first != getpass.getpass("once more: "):
        raise FtplugError("keygen: the two passphrases differ, or are empty: nothing was written")
    return first
