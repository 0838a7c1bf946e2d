"""How a batch script is submitted, kept so that another job can be submitted like it. Standard library, Python 3.9."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Submission"]

_PREFIX = "SBATCH_"


@dataclass(frozen=True)
class Submission:
    """The options on sbatch's command line, where they win over what `environ` says: the `SBATCH_*` of the user, which
    in their turn win over the lines of the script (sbatch(1), "Input environment variables")."""

    options: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Sequence[str], environ: Mapping[str, str]) -> Submission:
        """From all of an environment."""
        return cls(tuple(options), {name: value for name, value in environ.items() if name.startswith(_PREFIX)})

    @classmethod
    def read(cls, path: Path) -> Submission:
        """What `written` gave, from a file; nothing but the script for a run that was submitted by hand. ValueError for
        another file, OSError."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                tuple(map(str, raw["options"])), {str(name): str(raw["environ"][name]) for name in raw["environ"]}
            )
        except FileNotFoundError:
            return cls()
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} does not say how a job was submitted") from error

    def written(self) -> str:
        """As text for a file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def command(self, folder: Path) -> list[str]:
        """What submits the batch script of the run in `folder`."""
        # Slurm does not start a job whose output it cannot open, and the run directory may show up late on the node;
        # the script, which waits for it, writes to its logs.
        ours = [f"--chdir={folder}", "--output=/dev/null"]
        return ["sbatch", "--parsable", *self.options, *ours, str(folder / "job.sbatch"), str(folder)]

    def surroundings(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment with this `SBATCH_*` in place of its own."""
        kept = {name: value for name, value in environ.items() if not name.startswith(_PREFIX)}
        return {**kept, **self.environ}
