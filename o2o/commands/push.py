"""Publishes a run on the Hugging Face Hub, without its code and its secrets: `o2o push`."""

from pathlib import Path
from tempfile import TemporaryDirectory

from o2o.commands.push_config import PushConfig
from o2o.core import checkpoint
from o2o.core.files import read_text
from o2o.core.text import printable
from o2o.deployment import measured
from o2o.deployment.hub import Hub
from o2o.deployment.model_card import CardFacts, write_card
from o2o.deployment.run_files import ALLOWED, CARD, PublishedRun, write_files


def push(config: PushConfig) -> None:
    """Sends the checkpoint, the metadata and a card of a run to the hub, in one commit.

    Raises:
        UsageError: there is no run, or its files are not what o2o wrote.
        HubError: the hub cannot be reached, or refuses.
    """
    hub = Hub(config.repo, config.revision)
    with TemporaryDirectory(prefix="o2o-push-") as name:
        folder = Path(name)
        run = write_files(config.run, folder)
        checkpoint.write_text(folder / CARD, _card(config, run, folder))
        sizes = {file: (folder / file).stat().st_size for file in ALLOWED}
        if config.dry_run:
            print("\n".join(f"{size:>14,}  {file}" for file, size in sizes.items()))
            print(f"\n{printable_lines(read_text(folder / CARD))}")
            print(f"dry run: nothing was sent to {hub.url}")
            return
        title = f"Push a run of o2o {run.info['command']}"
        commit = hub.upload(folder, list(sizes), config.private, printable(title)[:72])
    print(f"pushed {len(sizes)} files, {sum(sizes.values()):,} bytes, to {hub.url} (commit {commit[:12]})")
    print(f"anybody who may read it gets it with: o2o pull {config.repo}")


def printable_lines(text: str) -> str:
    """Returns a text of several lines that is safe to print."""
    return "\n".join(map(printable, text.split("\n")))


def _card(config: PushConfig, run: PublishedRun, folder: Path) -> str:
    results = measured.of_files(config.before, config.after) or measured.of_run(run.source, run.meta)
    sizes = {name: (folder / name).stat().st_size for name in ALLOWED if name != CARD}
    facts = CardFacts(
        config.repo, run.info, run.meta, results, config.license, config.data_license, sizes, run.is_simulated
    )  # fmt: skip
    return write_card(facts)
