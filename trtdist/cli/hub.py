"""Downloads of models from the Hugging Face hub, through its own package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trtdist.engines.staging import Fill
from trtdist.errors import MissingError, TrtdistError

__all__ = ["downloaded"]

# The weights a second time, in forms that the engine does not read.
_LEFT_OUT = ["original/*", "*.gguf", "*.msgpack", "*.h5", "*.onnx", ".git*"]


def downloaded(model: str, revision: str | None) -> Fill:
    """Downloads a model by its id; MissingError at once without the package."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingError(
            "downloads from the hub need the package huggingface_hub: pip install huggingface_hub"
        ) from error

    # The bases have the error of the HTTP library, by which it tells that it reached nobody.
    failures: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)

    def fill(part: Path) -> Mapping[str, str]:
        try:
            # Asked first: where no hub answers, the download gives what is in the folder for the whole.
            told = huggingface_hub.HfApi().model_info(model, revision=revision, files_metadata=True)
            # What an earlier download has finished is found again in the folder.
            huggingface_hub.snapshot_download(model, revision=told.sha, local_dir=part, ignore_patterns=_LEFT_OUT)
        except failures as error:
            reason = str(error).strip().splitlines()
            raise TrtdistError(
                f"the hub does not give {model} ({reason[0] if reason else error!r}): is the id right, is there a "
                "network, and does the model need HF_TOKEN?"
            ) from error
        digests = {file.rfilename: file.lfs.sha256 for file in told.siblings or [] if file.lfs is not None}
        return {name: digest for name, digest in digests.items() if (part / name).exists()}

    return fill
