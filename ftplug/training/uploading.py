"""Uploads of a bound Trainer: the artifact and its card, through the registry, nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils.hub import PushInProgress

from ftplug.artifacts.card import CARD, CARD_PICTURES
from ftplug.artifacts.manifest import MANIFEST, read_manifest
from ftplug.artifacts.registries import registry
from ftplug.context import logger
from ftplug.errors import FtplugError
from ftplug.files.staged import close_stage, open_stage
from ftplug.training.compat import hf_api, init_hf_repo

if TYPE_CHECKING:
    from transformers import TrainerState

UPLOAD = "_ftplug_upload-"  # as all that starts with an underscore, no upload takes it along


class UploadMixin:
    """The uploads of a bound Trainer; names and meaning are those of ``transformers.Trainer``.

    The Trainer's own send the whole output folder, with ``training_args.bin`` (a pickle) and
    whatever else lies there.
    """

    args: TrainingArguments
    state: TrainerState
    hub_model_id: str | None
    push_in_progress: PushInProgress | None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish artifact and card in one commit; returns its ``CommitInfo``, or a ``Future``."""
        trainer: Any = self
        trainer.callback_handler.on_push_begin(self.args, self.state, trainer.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            init_hf_repo(trainer, token, private)
        trainer.save_model(_internal_call=True)
        if not trainer.is_world_process_zero():
            return None
        repo_id = str(self.hub_model_id)
        kwargs.setdefault("model_name", repo_id.rpartition("/")[2])
        trainer.create_model_card(**_with_model_tags(trainer.model, kwargs))
        trainer._finish_current_push()
        revision = revision if revision is not None else self.args.hub_revision
        push = partial(
            _published, Path(str(self.args.output_dir)), repo_id, commit_message, revision, token
        )
        return push() if blocking else hf_api().run_as_future(push)

    def upload_from_checkpoint(self, checkpoint: Path, save: Callable[[str], None]) -> None:
        """Upload the artifact as it is now, in the background, as ``hub_strategy`` says.

        ``save`` writes it into a folder; all processes call it. ``hub_strategy="checkpoint"`` asks
        for the optimizer state as well: the checkpoint then goes along as the Trainer sends it.
        """
        trainer: Any = self
        if self.args.hub_strategy == HubStrategy.END:
            return
        output_dir = str(self.args.output_dir)
        save(output_dir)
        if not trainer.is_world_process_zero():
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        trainer.callback_handler.on_push_begin(self.args, self.state, trainer.control)
        title = f"Training in progress, {_moment(self.args, self.state)}"
        frozen = _frozen(Path(output_dir))
        jobs = [hf_api().run_as_future(self._upload_frozen, frozen, title)]
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            jobs.append(self._upload_checkpoint(checkpoint, title))
        earlier: Any = self.push_in_progress.jobs if busy and self.push_in_progress else []
        self.push_in_progress = PushInProgress([*earlier, *jobs])  # type: ignore[arg-type]

    def _upload_frozen(self, frozen: Path, title: str) -> None:
        """Publish a frozen copy; a failure is said, and must not end the training."""
        try:
            _published(
                frozen, str(self.hub_model_id), title, self.args.hub_revision, self.args.hub_token
            )
        except FtplugError as error:
            logger.warning("%s was not uploaded, training goes on: %s", title, error)
        finally:
            close_stage(frozen)

    def _upload_checkpoint(self, checkpoint: Path, title: str) -> Any:
        last = self.args.hub_strategy == HubStrategy.CHECKPOINT
        logger.warning("hub_strategy=%r uploads pickles (optimizer state)", self.args.hub_strategy)
        return hf_api().upload_folder(
            repo_id=str(self.hub_model_id),
            folder_path=str(checkpoint),
            path_in_repo="last-checkpoint" if last else checkpoint.name,
            commit_message=f"{title}, checkpoint",
            token=self.args.hub_token,
            run_as_future=True,
            revision=self.args.hub_revision,
        )


def _published(
    directory: Path, repo_id: str, title: str | None, revision: str | None, token: str | None
) -> Any:
    done = registry().push(
        directory, repo_id, revision=revision or None, message=title, token=token, strays=True
    )
    logger.info("published %s at %s", done.url, done.sha)
    return done.commit


def _with_model_tags(model: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """Add the tags that a library put on the model (TRL, Unsloth), as the Trainer does."""
    own = list(getattr(model, "model_tags", None) or ())
    given = facts.get("tags") or []
    tags = [given] if isinstance(given, str) else list(given)
    return facts | {"tags": list(dict.fromkeys([*tags, *own]))} if own or tags else facts


def _moment(args: TrainingArguments, state: TrainerState) -> str:
    steps = args.save_strategy == SaveStrategy.STEPS
    return f"step {state.global_step}" if steps else f"epoch {int(state.epoch or 0)}"


def _frozen(output_dir: Path) -> Path:
    """Copy the artifact aside: the next save replaces it while the upload still reads.

    Files are replaced by renaming, so a hard link keeps the old content and costs nothing.
    """
    frozen = open_stage(output_dir, UPLOAD)
    for name in (MANIFEST, CARD, *sorted(CARD_PICTURES), *read_manifest(output_dir).files):
        if (source := output_dir / name).is_file():
            (frozen / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, frozen / name)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, frozen / name)
    return frozen
