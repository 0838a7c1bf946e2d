"""What each diagnostic code means: codes are stable, never reused, and each has an example that shows it."""

from __future__ import annotations

from trtdist.topology.code import Code
from trtdist.topology.lint.codes import LINT_CODES

__all__ = ["CODES", "Code"]


_RIGHT = """\
name: demo
model: org/model
servers: {}
"""

_LIST = (
    Code(
        "TRT001",
        "the file cannot be read",
        "A topology is a regular file that you may read: no directory, pipe or device.",
        "$ trtdist validate clusters/",
        "$ trtdist validate clusters/demo.yaml",
    ),
    Code(
        "TRT002",
        "too large to be a topology",
        "A file is read up to 1 MiB, 64 levels deep and, with every alias written out, 20000 values. A topology"
        " needs a few dozen: this is another file, or one that was made to exhaust its reader.",
        "name: demo\nmodel: org/model\nservers: {extra_engine_args: {a: " + "[" * 70 + "]" * 70 + "}}\n",
        _RIGHT,
    ),
    Code(
        "TRT003",
        "not a text",
        "The file holds bytes that are no UTF-8, a NUL byte or another control character. Save it as UTF-8; in a"
        ' double-quoted string a control character can be written as an escape such as "\\x1b".',
        "name: demo\nmodel: org/model\x01\nservers: {}\n",
        _RIGHT,
    ),
    Code(
        "TRT004",
        "not YAML",
        "The text cannot be read as YAML; the position is where the reader gave up, so the fault is there or just"
        " before. Common causes: a tab in the indentation, a bracket or quote that is not closed, a text with ': '"
        " or ' #' in it that needs quotes.",
        "name: demo\nmodel: org/model\nservers: {num_instances: 1\n",
        "name: demo\nmodel: org/model\nservers: {num_instances: 1}\n",
    ),
    Code(
        "TRT005",
        "not a mapping",
        "A topology is a mapping of keys and values; an empty file, a list or a single word is none.",
        "- name: demo\n- model: org/model\n",
        _RIGHT,
    ),
    Code(
        "TRT006",
        "more than one document",
        "A line '---' after the first document begins another one. One file describes one deployment.",
        _RIGHT + "---\n" + _RIGHT,
        _RIGHT,
    ),
    Code(
        "TRT007",
        "a construct of YAML that has no meaning here",
        "Tags such as !!python/name or !secret, lists and mappings used as keys, and '<<' with something other than"
        " a mapping are refused. Plain values, lists, mappings, anchors, aliases and '<<' merges are understood.",
        "name: !upper demo\nmodel: org/model\nservers: {}\n",
        _RIGHT,
    ),
    Code(
        "TRT008",
        "an alias without an end or a beginning",
        "An alias (*name) stands for the value that was given the anchor (&name) earlier in the file; it can neither"
        " come before it nor be part of it.",
        "name: demo\nmodel: org/model\nservers: &s {extra_engine_args: *s}\n",
        "name: demo\nmodel: org/model\ncontext_servers: &s {tp_size: 2}\ngeneration_servers: *s\n",
    ),
    Code(
        "TRT010",
        "a key given twice",
        "YAML readers keep one of the two values and drop the other without a word. Remove one.",
        "name: demo\nname: other\nmodel: org/model\nservers: {}\n",
        _RIGHT,
    ),
    Code(
        "TRT011",
        "a key is missing",
        "`name` and `model` have no default.",
        "name: demo\nservers: {}\n",
        _RIGHT,
    ),
    Code(
        "TRT012",
        "an unknown key",
        "A key that nothing reads is a setting that does not take effect, so it is refused; what was likely meant is"
        " named. Arguments of TensorRT-LLM's LLM class are known in server sections; one that is newer than this"
        " trtdist goes into `extra_engine_args`, which is passed on unchecked.",
        "name: demo\nmodel: org/model\nservers: {tp_szie: 2}\n",
        "name: demo\nmodel: org/model\nservers: {tp_size: 2}\n",
    ),
    Code(
        "TRT013",
        "a value of the wrong type",
        "The key takes another kind of value. Numbers and booleans are never made from text in quotes; text, on the"
        " other hand, may be written without quotes even when it looks like a number.",
        'name: demo\nmodel: org/model\nservers: {num_instances: "2"}\n',
        "name: demo\nmodel: org/model\nservers: {num_instances: 2}\n",
    ),
    Code(
        "TRT014",
        "two spellings of one key",
        "`tp_size` and `tensor_parallel_size` are the same setting, as are `pp_size`, `cp_size`, `gpu_fraction` and"
        " their longer names. With both given, one would win and the other be lost.",
        "name: demo\nmodel: org/model\nservers: {tp_size: 2, tensor_parallel_size: 2}\n",
        "name: demo\nmodel: org/model\nservers: {tensor_parallel_size: 2}\n",
    ),
    Code(
        "TRT015",
        "not one of the choices",
        "The key takes one of a few words.",
        "name: demo\nmodel: org/model\nengine: tensorrt-llm\nservers: {}\n",
        "name: demo\nmodel: org/model\nengine: tensorrt_llm\nservers: {}\n",
    ),
    Code(
        "TRT016",
        "an impossible value",
        "The value is of the right type and outside of what can be: no servers, a share of memory above 1, a port"
        " above 65535, a number that is infinite.",
        "name: demo\nmodel: org/model\nservers: {gpu_fraction: 1.5}\n",
        "name: demo\nmodel: org/model\nservers: {gpu_fraction: 0.5}\n",
    ),
    Code(
        "TRT017",
        "a malformed text",
        "The text cannot be what the key stands for: a job name with spaces, a time limit that Slurm does not read, a"
        " mount without target, a line break where one line is needed, a NUL that no program argument can carry.",
        "name: my demo\nmodel: org/model\nservers: {}\n",
        "name: my-demo\nmodel: org/model\nservers: {}\n",
    ),
    Code(
        "TRT018",
        "--set cannot be applied",
        "--set takes path=value: keys with dots between them, items of lists by number from 0, the value as YAML;"
        " an empty value takes a key away. The path must lead to something that can be set.",
        "$ trtdist validate demo.yaml --set name.first=a",
        "$ trtdist validate demo.yaml --set servers.tp_size=2",
    ),
    Code(
        "TRT020",
        "monolithic and disaggregated at once",
        "`servers` answer requests alone; `context_servers` and `generation_servers` share each request. A deployment"
        " is one or the other.",
        "name: demo\nmodel: org/model\nservers: {}\ncontext_servers: {}\ngeneration_servers: {}\n",
        "name: demo\nmodel: org/model\ncontext_servers: {}\ngeneration_servers: {}\n",
    ),
    Code(
        "TRT021",
        "a server section is missing",
        "A deployment has `servers`, or both `context_servers` and `generation_servers`.",
        "name: demo\nmodel: org/model\ncontext_servers: {}\n",
        "name: demo\nmodel: org/model\ncontext_servers: {}\ngeneration_servers: {}\n",
    ),
    Code(
        "TRT022",
        "a launch mode that the runtime does not have",
        "trtllm-serve and Dynamo start each server by itself; there is no MPI world that holds them all.",
        "name: demo\nmodel: org/model\nruntime: dynamo\nservers: {}\n",
        "name: demo\nmodel: org/model\nruntime: dynamo\nlaunch: per_server\nservers: {}\n",
    ),
    Code(
        "TRT023",
        "an engine that does not fit",
        "The runtimes trtllm-serve and dynamo run TensorRT-LLM only, and the section `reference` in a server section"
        " is read by the reference engine only.",
        "name: demo\nmodel: org/model\nservers: {reference: {step_delay: 0.1}}\n",
        "name: demo\nmodel: org/model\nengine: reference\nservers: {reference: {step_delay: 0.1}}\n",
    ),
    Code(
        "TRT024",
        "an image without runtime, or a runtime without image",
        "A container needs both `container.image` and `container.runtime`; the runtime may come from the site"
        " profile. Without a container, leave out both.",
        "name: demo\nmodel: org/model\nservers: {}\ncontainer: {runtime: pyxis}\n",
        "name: demo\nmodel: org/model\nservers: {}\ncontainer: {runtime: pyxis, image: /images/trtllm.sqsh}\n",
    ),
    Code(
        "TRT025",
        "two keys that exclude each other",
        "Both keys say the same thing in different ways, or one makes the other useless.",
        "name: demo\nmodel: org/model\nservers: {}\nnetwork: {interface: ib0, subnet: 10.1.0.0/16}\n",
        "name: demo\nmodel: org/model\nservers: {}\nnetwork: {interface: ib0}\n",
    ),
    Code(
        "TRT026",
        "a number that readers disagree on",
        "A number with a leading zero is octal to YAML 1.1 and decimal to YAML 1.2.",
        "name: demo\nmodel: org/model\nservers: {num_instances: 010}\n",
        "name: demo\nmodel: org/model\nservers: {num_instances: 10}\n",
    ),
    Code(
        "TRT027",
        "ranks that the reference engine cannot share its model among",
        "The reference engine is tensor parallel over 1, 2, 4 or 8 ranks, which share its eight heads; it has neither"
        " pipeline nor context parallelism.",
        "name: demo\nmodel: reference/tiny\nengine: reference\nservers: {tp_size: 3}\n",
        "name: demo\nmodel: reference/tiny\nengine: reference\nservers: {tp_size: 4}\n",
    ),
    Code(
        "TRT028",
        "a model that is not there, or not all of it",
        "The folder that `model` names can be seen from here, and it, or a file that belongs to it, is missing: a"
        " config.json, a tokenizer, a file of weights that the index names, or the end of one. A hub id is looked for"
        " in the cache when container.env says that the hub is not asked (HF_HUB_OFFLINE). `trtdist model check`"
        " tells all that is missing, `trtdist model stage` brings a whole model.",
        "$ trtdist validate cluster.yaml --set model=/models/half",
        "$ trtdist validate cluster.yaml --set model=/models/whole",
    ),
    Code(
        "TRT029",
        "no room for the deployment",
        "The nodes and GPUs that the topology asks for cannot hold its servers: more ranks than GPUs, a server over"
        " more nodes than there are, or shares of memory (`free_gpu_memory_fraction`) that add up to more than a GPU"
        " has. The smallest changes that help are named; `trtdist plan` shows the map.",
        "$ trtdist validate cluster.yaml --set slurm.nodes=1 --set servers.tp_size=16",
        "$ trtdist validate cluster.yaml --set slurm.nodes=2 --set servers.tp_size=16",
    ),
    Code(
        "TRT030",
        "something that the runtime does not have",
        "With `runtime: trtllm-serve` and `runtime: dynamo` the router and the HTTP front end are programs of"
        " TensorRT-LLM and Dynamo, which have no API keys, weights or certificates to set here. The router of"
        " trtllm-serve is for"
        " disaggregated deployments alone: a monolithic one has a single server there, which users ask themselves."
        " Where servers listen is told to others when a run starts, so that none can move to a spare node.",
        "name: demo\nmodel: org/model\nruntime: dynamo\nlaunch: per_server\nservers: {}\nrouter: {direct_below: 5}\n",
        "name: demo\nmodel: org/model\nruntime: dynamo\nlaunch: per_server\nservers: {}\n",
    ),
    Code(
        "TRT101",
        "a key without effect",
        "The key is accepted so that a configuration of TensorRT-LLM can be pasted in, and nothing reads it: hosts"
        " and ports are found when the deployment starts.",
        "name: demo\nmodel: org/model\nservers: {urls: ['localhost:8001']}\n",
        _RIGHT,
    ),
    Code(
        "TRT102",
        "an older name of an engine argument",
        "The argument reaches the engine as it is written; releases of TensorRT-LLM after its renaming refuse it.",
        "name: demo\nmodel: org/model\nservers: {use_cuda_graph: true}\n",
        "name: demo\nmodel: org/model\nservers: {cuda_graph_config: {enable_padding: true}}\n",
    ),
)

CODES = {code.code: code for code in (*_LIST, *LINT_CODES)}
