"""What it says where a folder cannot be written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftplug.errors import ArtifactError, one_line

_SHUT = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP)


@contextmanager
def stated_write_errors(target: Path) -> Iterator[None]:
    """Say in one line that a folder cannot be written (disk full, read-only, no permission).

    Or that what is to be written cannot be: transformers writes no config that its class refuses.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot write {target}: {error}: {_way_out(error)}") from error
    except StrictDataclassError as error:
        reason = f"the model's config is none that its class takes: {one_line(error)}"
        raise ArtifactError(f"cannot write {target}: {reason}: change model.config") from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise ArtifactError(f"cannot write {str(target)!r}: {error}: choose another") from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        reason = str(error).partition("\n")[0]  # torch.save on a full disk
        raise ArtifactError(f"cannot write {target}: {reason}: {_way_out(error)}") from error


def _way_out(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, FileExistsError) and number is None:
        return "then save again"
    if number == errno.ENOTEMPTY:
        return "another process made it meanwhile: run the same command again"
    if number in _NO_PLACE:
        return "choose another folder"
    cure = "make it writable" if number in _SHUT else "make room there"
    return f"{cure} or choose another folder; what was complete there still is"
