"""Sends files to the Hugging Face Hub and fetches them, with every failure as one line.

The package `huggingface_hub` signs in, commits and asks; a download is continued here, because that package
begins a file anew when its process has ended.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o2o.core.checkpoint import storage
from o2o.core.errors import HubError, UsageError
from o2o.core.extras import install_command
from o2o.core.files import open_regular, read_bytes
from o2o.core.text import printable

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,94}/[A-Za-z0-9_][\w.-]{0,94}")
TRIES = 5  # of a download whose connection is cut, without a byte more in between
WAIT_S, TIMEOUT_S = 0.2, 10.0  # between two tries; without a byte
REASONS = {
    401: "the hub does not accept the token: log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not do this: wanted one with the right to write there",
    404: "there is no such repository, or it is private and this token may not read it",
    409: "the repository is being changed by somebody else: give the same command again",
    412: "somebody else pushed there meanwhile, and nothing was sent: give the same command again",
    429: "too many requests: wait some minutes and give the same command again",
}


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub.

    Attributes:
        size: bytes.
        sha256: hash of the content, where the hub keeps it apart as a large file; else empty.
        git_sha1: hash of the content as git computes it, where the hub keeps it in git; else empty.
    """

    size: int
    sha256: str
    git_sha1: str

    def accepts(self, path: Path) -> bool:
        """Returns whether a file has this content."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256:
            with open_regular(path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        content = read_bytes(path)
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == self.git_sha1


def check_repo_id(name: str) -> None:
    """Checks the name of a repository.

    Raises:
        UsageError: it is not OWNER/NAME.
    """
    if not REPO_ID.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".", "-")):
        raise UsageError(f"{name!r:.200} is no repository of the hub, wanted OWNER/NAME such as ada/door")


class Hub:
    """One repository on the hub.

    Attributes:
        repo: OWNER/NAME.
        revision: branch, tag or commit; empty: the main branch.
    """

    def __init__(self, repo: str, revision: str = ""):
        """
        Raises:
            UsageError: `huggingface_hub` is not installed, or the name is none of a repository.
        """
        check_repo_id(repo)
        self._package = _package()
        self.repo, self.revision = repo, revision
        self._api = self._package.HfApi(library_name="o2o")

    @property
    def url(self) -> str:
        """Returns the address of the repository's page."""
        return f"{self._api.endpoint}/{self.repo}"

    def upload(self, folder: Path, names: Sequence[str], private: bool, title: str) -> str:
        """Commits files of a folder, all of them or none, and returns the commit.

        The repository is made if it is missing.

        Raises:
            HubError: there is no token or no network, the hub refuses, or `private` is wanted of a repository
                that exists and is public.
        """
        with self._one_line():
            if self._package.get_token() is None:
                raise HubError("no token of the hub: log in with `hf auth login`, or set HF_TOKEN")
            self._api.create_repo(self.repo, private=private or None, exist_ok=True)
            if private and not self._api.model_info(self.repo, timeout=TIMEOUT_S).private:
                raise HubError(f"{self.repo} is public, so nothing was sent: --private is for a new one")
            if self.revision:
                self._api.create_branch(self.repo, branch=self.revision, exist_ok=True)
            add = self._package.CommitOperationAdd
            operations = [add(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
            return self._api.create_commit(
                self.repo, operations, commit_message=title, revision=self.revision or None
            ).oid

    def files(self) -> tuple[str, dict[str, RemoteFile]]:
        """Returns the commit of the revision, and the files in it.

        Raises:
            HubError: there is no network, or the hub refuses.
        """
        with self._one_line():
            info = self._api.model_info(
                self.repo, revision=self.revision or None, files_metadata=True, timeout=TIMEOUT_S
            )
            files = {}
            for one in info.siblings or ():
                sha256 = one.lfs.sha256 if one.lfs else ""
                files[one.rfilename] = RemoteFile(int(one.size or 0), sha256, one.blob_id or "")
            return str(info.sha), files

    def download(self, name: str, commit: str, file: RemoteFile, path: Path) -> None:
        """Fetches a file, or what is missing of it, and checks its content against the hub's own hash.

        Args:
            name: path in the repository.
            commit: commit of the file.
            file: what the hub says of it.
            path: where it goes; what an earlier call left there is continued.
        Raises:
            HubError: there is no network, the hub refuses, or the content is another one; it is then deleted.
            StorageError: the disk is full or cannot be written.
        """
        url = f"{self.url}/resolve/{commit}/{name}"
        with storage(path, file.size):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            if path.stat().st_size > file.size:
                path.unlink()
        before, tries = -1, 0
        while (have := path.stat().st_size) < file.size:
            before, tries = have, tries + 1 if have <= before else 0
            if tries == TRIES:
                raise HubError(f"the connection to the hub is cut again and again, {have:,} of {file.size:,} "
                               f"bytes of {name} are here: the same command continues")  # fmt: skip
            self._continue(url, path, have, file.size)
        if not file.accepts(path):
            path.unlink()
            raise HubError(
                f"{name} of {self.repo} has another content than the hub says (sha256); it was deleted: "
                "give the same command again"
            )

    def _continue(self, url: str, path: Path, have: int, size: int) -> None:
        """Appends to a file what the hub sends from byte `have` on, until the connection ends or is cut."""
        import httpx2

        headers = self._package.utils.build_hf_headers(library_name="o2o")
        headers |= {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        client = self._package.utils.get_session()
        with self._one_line():
            try:
                with client.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
                    self._package.utils.hf_raise_for_status(response)
                    if response.status_code != 206:  # the hub sends the file from its beginning
                        path.unlink(missing_ok=True)
                    with storage(path, size), path.open("ab") as file:
                        for block in response.iter_bytes():
                            if file.tell() + len(block) > size:
                                raise HubError(f"{self.repo} sends more of {path.name} than its {size} bytes")
                            file.write(block)
                        file.flush()
                        os.fsync(file.fileno())
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.ReadTimeout):
                time.sleep(WAIT_S)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Turns the exceptions of the block into one line each; keeps the package's own lines off the screen.

        Raises:
            HubError: the hub cannot be reached, or refuses.
        """
        import httpx2

        errors, logs = self._package.errors, self._package.utils.logging
        verbosity = logs.get_verbosity()
        logs.set_verbosity_error()
        self._package.utils.disable_progress_bars()
        known = (httpx2.HTTPError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled)
        try:
            with warnings.catch_warnings():  # of a card's metadata, and of the package's own use of httpx2
                warnings.simplefilter("ignore")
                yield
        except (*known, ValueError, KeyError, TypeError, RuntimeError) as error:
            is_upload = isinstance(error, RuntimeError) and isinstance(error.__cause__, known)
            raise HubError(self._explain(error.__cause__ if is_upload else error)) from error
        finally:
            logs.set_verbosity(verbosity)
            self._package.utils.enable_progress_bars()

    def _explain(self, error: BaseException | None) -> str:
        """Returns a line about a failure of the package."""
        import httpx2

        errors = self._package.errors
        if isinstance(error, errors.GatedRepoError):
            return f"{self.repo} is gated: ask for access at {self.url}, and log in"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{self.repo} has no revision {self.revision!r}"
        if isinstance(error, errors.HfHubHTTPError):
            return f"{self.repo}: {_reason(error)}"
        text = printable(str(error)) or type(error).__name__
        if isinstance(error, (httpx2.HTTPError, errors.OfflineModeIsEnabled)):
            return f"cannot reach the hub at {self._api.endpoint} ({text}): is there a network?"
        return f"{self.repo}: the hub answers something unexpected ({text[:300]})"


def _package() -> Any:
    """Returns the package `huggingface_hub`.

    Raises:
        UsageError: it is not installed; the line says how it is.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise UsageError(f"the hub needs huggingface_hub: {install_command('hub')}") from error
    return huggingface_hub


def _reason(error: Any) -> str:
    """Returns why the hub refused a request."""
    status = error.response.status_code
    missing = type(error).__name__ == "RepositoryNotFoundError"
    said = printable(error.response.headers.get("X-Error-Message") or "")[:200]
    reason = REASONS[404] if missing else REASONS.get(status, f"the hub answers with {status}")
    wait = error.response.headers.get("Retry-After") if status == 429 else None
    seconds = f" (in {printable(wait)[:20]} s)" if wait else ""
    return f"{reason}{seconds}{f'; it says: {said}' if said else ''}"
