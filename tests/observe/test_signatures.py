"""Each signature knows its own line and does not fall for one much like it."""

from __future__ import annotations

import re

import pytest

from trtdist.observe.signatures import KINDS, Signature, Signatures, known, plain
from trtdist.topology.model import ContainerSection, NetworkSection, SlurmSection

ALL = known().all
# As logs have them: TensorRT-LLM's loggers, colours, the label of `srun --label`.
DRESSED = ("{}", "3: {}", " 12: \x1b[33m{}\x1b[0m", "\x1b[33m7: {}")


def meaning_of(line: str) -> Signature | None:
    return known().match(plain(line).text)


@pytest.mark.parametrize("signature", ALL, ids=lambda each: each.code)
def test_its_own_line_and_a_near_miss(signature: Signature) -> None:
    assert any(word in signature.example for word in signature.literal), "grep would not find the line"
    assert signature.pattern.search(plain(signature.example).text)
    assert not signature.pattern.search(plain(signature.near_miss).text)
    found = meaning_of(signature.near_miss)
    assert found is None or found.code != signature.code


@pytest.mark.parametrize("signature", [each for each in ALL if each.kind != "harmless"], ids=lambda each: each.code)
def test_its_line_means_it_however_it_is_dressed(signature: Signature) -> None:
    for dress in DRESSED:
        found = meaning_of(dress.format(signature.example))
        assert found is not None and found.code == signature.code


@pytest.mark.parametrize("signature", [each for each in ALL if each.kind == "harmless"], ids=lambda each: each.code)
def test_a_harmless_line_means_nothing(signature: Signature) -> None:
    assert meaning_of(signature.example) is None


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: response stream is closed",
        "MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD with errorcode 1.",
        "[TensorRT-LLM][ERROR] CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED not supported",
        "WARNING: failed to import optional module: No module named 'flash_attn'",
        "[33mRank0 Task exit code: 0",
        "[TRT-LLM] [W] the connection to the metrics server failed to open, going on",
        "an exception was caught and could not be told",
    ],
)
def test_what_looks_bad_and_is_not(line: str) -> None:
    assert meaning_of(line) is None


def test_a_program_in_go_says_it_in_lower_case() -> None:
    found = meaning_of('{"level":"panic","msg":"failed to create WAL","error":"no space left on device"}')
    assert found is not None and found.code == "disk-full"


def test_the_data_file_is_whole() -> None:
    codes = [each.code for each in ALL]
    assert len(set(codes)) == len(codes)
    for each in ALL:
        assert each.kind in KINDS and each.literal and each.meaning and each.remedy and each.source
        assert each.meaning[0].islower() or each.meaning.startswith(("GPU", "MPI", "NCCL", "NATS", "Slurm", "/dev"))
        assert not each.meaning.endswith(".") and "\n" not in each.meaning + each.remedy


def test_a_label_is_kept() -> None:
    assert plain("\x1b[1m 12: boom\x1b[0m").task == 12
    assert plain("2026: a year").text == "a year"
    assert plain("no label: 3").task is None


def test_the_most_telling_signature_counts() -> None:
    both = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    found = Signatures(list(reversed(ALL))).match(both)
    assert found is not None and found.code == "gpu-memory"


def test_the_settings_that_remedies_name_are_there() -> None:
    sections = {"slurm": SlurmSection, "container": ContainerSection, "network": NetworkSection}
    for each in ALL:
        for section, name in re.findall(r"\b(slurm|container|network)\.(\w+)", each.remedy):
            assert name in sections[section].model_fields, (each.code, name)
