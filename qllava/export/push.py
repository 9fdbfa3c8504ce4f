"""An export onto the hub, private until its owner says otherwise."""

from __future__ import annotations

from pathlib import Path

from qllava.errors import ModelError


def push(folder: Path, name: str) -> str:
    """Upload a folder as a model repository; returns its address.

    The token is the one of `hf auth login` or HF_TOKEN; it is neither read nor written here.

    Raises:
        ModelError: no network, no login, or no right to write there; the folder stays as it is.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - a network client that only this needs
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError  # noqa: PLC0415

    api = HfApi()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=address.repo_id, commit_message="Exported by qllava")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{name} was not uploaded ({reason}); log in with `hf auth login` and repeat, or "
            f"`hf upload {name} {folder}`; the export in {folder} is whole"
        ) from None
    return str(address)
