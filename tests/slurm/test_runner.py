"""What is made of the words with which Slurm's programs fail, for a stand-in that fails as they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdist.errors import MissingError, SlurmDownError, SlurmError, SlurmGoneError, TrtdistError
from trtdist.slurm.runner import run

NO_SOURCE = """\
sinfo: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
sinfo: error: fetch_config: DNS SRV lookup failed
sinfo: error: _establish_config_source: failed to fetch config
sinfo: fatal: Could not establish a configuration source
"""
NO_FILE = "sinfo: error: s_p_parse_file: cannot stat file /no: No such file or directory, retrying in 1sec\n"
REMEDY = "set SLURM_CONF to the configuration of the cluster, or run this on one of its login nodes"


def said(folder: Path, complaint: str, then: str, timeout: float) -> tuple[type[TrtdistError], str]:
    """What is raised for a program that complains and then ends, or does not."""
    (folder / "complaint").write_text(complaint)
    script = folder / "sinfo"
    script.write_text(f"#!/bin/sh\ncat {folder}/complaint >&2\n{then}\n")
    script.chmod(0o755)
    with pytest.raises(TrtdistError) as raised:
        run([str(script)], timeout=timeout)
    return raised.type, str(raised.value).replace(f"{folder}/", "")


def test_a_machine_without_a_configuration(tmp_path: Path) -> None:
    words = f"Slurm is not configured here (sinfo: Could not establish a configuration source): {REMEDY}"
    assert said(tmp_path, NO_SOURCE, "exit 1", 30) == (MissingError, words)


def test_a_configuration_that_is_awaited_in_vain(tmp_path: Path) -> None:
    kind, words = said(tmp_path, NO_FILE, "exec sleep 60", 2.0)
    assert kind is MissingError
    assert words.startswith("Slurm is not configured here (sinfo: s_p_parse_file: cannot stat file /no: No such file")


def test_a_configuration_that_is_not_there_is_not_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/no/slurm.conf")
    kind, words = said(tmp_path, "", f"touch {tmp_path}/ran", 30)
    assert (kind, (tmp_path / "ran").exists()) == (MissingError, False)
    assert words == f"Slurm is not configured here (SLURM_CONF names /no/slurm.conf, which is not there): {REMEDY}"


def test_a_program_that_hangs_is_quoted(tmp_path: Path) -> None:
    kind, words = said(tmp_path, "sinfo: error: still trying\n", "exec sleep 60", 2.0)
    assert (kind, words) == (SlurmDownError, "sinfo did not answer in time (still trying): is Slurm's controller up?")


def test_a_refusal_has_all_of_its_words(tmp_path: Path) -> None:
    complaint = "sbatch: error: Memory specification can not be satisfied\nsbatch: error: Batch job submission failed\n"
    words = "sinfo: Memory specification can not be satisfied; Batch job submission failed"
    assert said(tmp_path, complaint, "exit 1", 30) == (SlurmError, words)


@pytest.mark.parametrize(
    "complaint",
    [
        "scancel: error: Kill job error on job id 7: Invalid job id specified",
        "scancel: error: Kill job error on job step id 7.2: Job/step already completing or completed",
        "slurm_load_jobs error: Invalid job id specified",
    ],
)
def test_what_slurm_does_not_know_any_more(tmp_path: Path, complaint: str) -> None:
    kind, _ = said(tmp_path, f"{complaint}\n", "exit 1", 30)
    assert kind is SlurmGoneError


def test_a_program_that_asks_again_about_what_has_gone_is_understood(tmp_path: Path) -> None:
    words = "Kill job error on job step id 215: Invalid job id specified"
    kind, told = said(tmp_path, f"{words}\n", "exec sleep 60", 2.0)
    assert kind is SlurmGoneError and words in told
