"""NVIDIA Dynamo's front end and mocker: installed in an environment of their own, started, and asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plane.machine import ROOT, Program
from benchmarks.plane.services import free_ports

__all__ = ["ENVIRONMENT", "MODEL", "Found", "prepare", "start"]

ENVIRONMENT = ROOT / "build" / "dynamo-env"
MODEL = "tiny"
# One of its hard dependencies was never released, so its dependencies are named here.
WHEELS = ("ai-dynamo==1.6.1", "ai-dynamo-runtime==1.6.1")
NEEDED = ("aiohttp", "certifi", "msgspec", "prometheus-client", "pydantic", "pyzmq", "tqdm", "transformers", "uvloop",
          "zstandard")  # fmt: skip

# Its listener leaves Nagle's algorithm on, which holds streamed chunks back for 40 ms.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static int without_delay(int socket) {
    int on = 1;
    if (socket >= 0) setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return socket;
}

int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags) {
    int (*real)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
    return without_delay(real(socket, address, length, flags));
}

int accept(int socket, struct sockaddr *address, socklen_t *length) {
    int (*real)(int, struct sockaddr *, socklen_t *) = dlsym(RTLD_NEXT, "accept");
    return without_delay(real(socket, address, length));
}
"""

# Makes the smallest model that its front end takes: run by the environment's Python, which has `tokenizers`.
MAKE_MODEL = r"""
import json, sys
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers, decoders
folder = Path(sys.argv[1])
# The mocker's tokens are any numbers up to some thousands, and each must have a text.
fillers = [f"\u0120token{number}" for number in range(8192)]
vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "<unk>", *json.loads(sys.argv[2]), *fillers])}
made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
made.save(str(folder / "tokenizer.json"))
size = made.get_vocab_size()
config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size, "hidden_size": 64,
          "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
          "max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float16"}
(folder / "config.json").write_text(json.dumps(config))
template = "{% for message in messages %}{{ message.content }}{% endfor %}"
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>", "eos_token": "</s>", "chat_template": template, "model_max_length": 8192}))
(folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}))
"""


@dataclass(frozen=True)
class Found:
    """A running Dynamo: where it is asked, and its programs."""

    url: str
    port: int
    programs: dict[str, Program]


def prepare(environment: Path) -> str:
    """Make the environment unless it is there; why it cannot be had, "" when it can."""
    if shutil.which("cc") is None:
        return "there is no C compiler for the TCP_NODELAY shim"
    if _imports(environment):
        return ""
    python = environment / "bin" / "python"
    commands = [
        [sys.executable, "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *WHEELS],
        [str(python), "-m", "pip", "install", "--quiet", *NEEDED],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}"
    return "" if _imports(environment) else f"{WHEELS[0]} cannot be imported in {environment}"


def start(
    stack: contextlib.ExitStack, names: Sequence[str], environment: Path, folder: Path, speed: int = 1000000
) -> dict[str, Found]:
    """Start it as shipped, `dynamo`, or with the shim, `dynamo-nodelay`. `speed` 1 is the mocker's own pace."""
    folder.mkdir()
    model = _model(environment, folder)
    shim = folder / "nodelay.so"
    source = folder / "nodelay.c"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(shim), str(source), "-ldl"], check=True)
    environs = {"dynamo": {}, "dynamo-nodelay": {"LD_PRELOAD": str(shim)}}
    return {name: _start(stack, environment, model, folder / name, speed, environs[name]) for name in names}


def _imports(environment: Path) -> bool:
    python = environment / "bin" / "python"
    return python.exists() and subprocess.run([str(python), "-c", "import dynamo.runtime"]).returncode == 0


def _model(environment: Path, folder: Path) -> Path:
    from trtdist.bench.workload import WORDS

    made = folder / "model"
    made.mkdir()
    words = json.dumps([word for each in dict.fromkeys(WORDS) for word in (each, f"\u0120{each}")])
    subprocess.run([str(environment / "bin" / "python"), "-c", MAKE_MODEL, str(made), words], check=True)
    return made


def _start(
    stack: contextlib.ExitStack, environment: Path, model: Path, folder: Path, speed: int, front_environ: dict[str, str]
) -> Found:
    folder.mkdir()
    python = str(environment / "bin" / "python")
    environ = {
        "HF_HUB_OFFLINE": "1",
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(folder / "store"),
        "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq",
        "DYN_LOG": "warn",
        "HOME": str(folder),
        "PYTHONPATH": "",
    }
    (port,) = free_ports(1)
    mocker = [python, "-m", "dynamo.mocker", "--model-path", str(model), "--model-name", MODEL]
    mocker += ["--speedup-ratio", str(speed)]
    front = [python, "-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port)]
    front += ["--router-mode", "round-robin"]
    programs = {
        "worker": Program.start(mocker, folder / "mocker.log", environ),
        "front": Program.start(front, folder / "front.log", {**environ, **front_environ}),
    }
    for program in programs.values():
        stack.callback(program.stop)
    return Found(f"http://127.0.0.1:{port}/v1", port, programs)
