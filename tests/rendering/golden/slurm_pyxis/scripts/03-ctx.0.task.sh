#!/usr/bin/env bash
# test, step 03-ctx.0: what each task does. It finds out which rank it is and becomes that rank.
set -euo pipefail

TRTDIST_TASK=${SLURM_PROCID:-}

# task) server, rank in it, its ranks, rank in the deployment, GPU, node, GPUs of the server on this node
case $TRTDIST_TASK in
    0) set -- ctx.0 0 2 0 0 0 0,1 ;;
    1) set -- ctx.0 1 2 1 1 0 0,1 ;;
    "")
        echo "$0: no rank in the environment; start this file through the launch line beside it" >&2
        exit 1
        ;;
    *)
        echo "$0: this step has no rank $TRTDIST_TASK" >&2
        exit 1
        ;;
esac

TRTDIST_REMOVED=
# What a site sets for its own MPI breaks that of the engine; slurm.setup and container.env may set it again.
for TRTDIST_NAME in UCX_TLS "${!OMPI_MCA_@}"; do
    if [[ -v $TRTDIST_NAME ]]; then
        TRTDIST_REMOVED+="$TRTDIST_NAME "
        unset "$TRTDIST_NAME"
    fi
done

# They told the runtime about folders of the node.
unset "${!XDG_@}"

# container.env of the topology.
export NVIDIA_DRIVER_CAPABILITIES=all
export HF_HOME=/data

# On a shared file system, what the launch line has read on another node may show up here seconds later; by then it may
# have been changed once more.
TRTDIST_FOUND=${BASH_SOURCE[0]%"${BASH_SOURCE[0]##*/}"}../resolved.env
SECONDS=0
until [[ $'\n'$(cat -- "$TRTDIST_FOUND" 2>/dev/null)$'\n' == *$'\n'"TRTDIST_STAMP=${TRTDIST_STAMP:-}"[$'\n'.]* ]]; do
    if ((SECONDS >= 60)); then
        echo "$0: $TRTDIST_FOUND on ${SLURMD_NODENAME:-this node} is not what the launch line has read" >&2
        exit 1
    fi
    sleep 0.2
done

# What was found for the run lies one folder above this file, whichever way the file was named.
TRTDIST_FOUND=${BASH_SOURCE[0]%"${BASH_SOURCE[0]##*/}"}../resolved.env
if [[ ! -r $TRTDIST_FOUND ]]; then
    echo "$0: there is no $TRTDIST_FOUND; README.txt in the folder of this file says how to make it" >&2
    exit 1
fi
set -a
# shellcheck source=/dev/null
. "$TRTDIST_FOUND"
set +a

# The Python of the image, and no longer that of the host.
TRTDIST_PYTHON=/opt/python/bin/python3
if ! command -v "$TRTDIST_PYTHON" >/dev/null; then
    echo "trtdist: node ${SLURMD_NODENAME:-$HOSTNAME} finds no $TRTDIST_PYTHON in its image: take one with Python 3.9" \
        "or newer, or name its Python in container.python" >&2
    exit 127
fi

if [[ -n $TRTDIST_REMOVED ]]; then
    echo "${TRTDIST_REMOVED% }" >"$TRTDIST_RUN_DIR/logs/removed.$1.$2.txt"
fi

export PYTHONPATH=$TRTDIST_RUN_DIR/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TRTDIST_STEP=ctx.0 TRTDIST_LAUNCH=per_server
export TRTDIST_SERVER=$1 TRTDIST_RANK=$2 TRTDIST_SERVER_SIZE=$3 TRTDIST_WORLD_RANK=$4 TRTDIST_GPU=$5
read -r -a TRTDIST_AT <<<"$TRTDIST_ADDRESSES"
export TRTDIST_NODE_ADDRESS=${TRTDIST_AT[$6]}

# A rank that cannot run here says so through its shim, which makes it known as the cause.
refuse() {
    exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
        --run-dir "$TRTDIST_RUN_DIR" --step ctx.0 --name "$1" --refuse "$2"
}

# Slurm may sort and move tasks, and a rank on another node would take the GPUs of others.
read -r -a TRTDIST_PLACES <<<"$TRTDIST_NODES"
if [[ ${SLURMD_NODENAME:-} != "${TRTDIST_PLACES[$6]}" ]]; then
    refuse "$1.$2" "is task $TRTDIST_TASK and belongs on ${TRTDIST_PLACES[$6]}, but runs on ${SLURMD_NODENAME:-no node}"
fi

read -r -a TRTDIST_AHEAD <<<"$TRTDIST_CLOCKS"
export TRTDIST_CLOCK_AHEAD=${TRTDIST_AHEAD[$6]}

# Session files and shared memory of MPI lie with the run's other local files and go with them.
export TMPDIR=$TRTDIST_LOCAL_DIR/mpi.$TRTDIST_STEP
export OMPI_MCA_btl_sm_backing_directory=$TMPDIR OMPI_MCA_btl_vader_backing_directory=$TMPDIR
(umask 077 && mkdir -p "$TMPDIR")

# The plan numbers the GPUs that this task inherits: those in CUDA_VISIBLE_DEVICES, all of them if it is not set.
case ${CUDA_VISIBLE_DEVICES-all} in
    all) mapfile -t TRTDIST_THERE < <(nvidia-smi --query-gpu=index --format=csv,noheader) ;;
    -1 | NoDevFiles) TRTDIST_THERE=() ;;
    *) IFS=, read -r -a TRTDIST_THERE <<<"${CUDA_VISIBLE_DEVICES// /}" ;;
esac
IFS=, read -r -a TRTDIST_WANTED <<<"$7"
CUDA_VISIBLE_DEVICES=
for TRTDIST_INDEX in "${TRTDIST_WANTED[@]}"; do
    if ((TRTDIST_INDEX >= ${#TRTDIST_THERE[@]})); then
        refuse "$1.$2" "needs GPU $TRTDIST_INDEX (from 0), and ${#TRTDIST_THERE[@]} are there"
    fi
    CUDA_VISIBLE_DEVICES+=${CUDA_VISIBLE_DEVICES:+,}${TRTDIST_THERE[TRTDIST_INDEX]}
done
export CUDA_VISIBLE_DEVICES
# As nvidia-smi and Slurm count them; CUDA itself begins with the fastest.
export CUDA_DEVICE_ORDER=PCI_BUS_ID

# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

TRTDIST_COMMAND=("$TRTDIST_PYTHON" -m trtdist.serving.worker "$TRTDIST_RUN_DIR")

exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
    --run-dir "$TRTDIST_RUN_DIR" --step "$TRTDIST_STEP" --name "$TRTDIST_SERVER.$TRTDIST_RANK" \
    --server "$TRTDIST_SERVER" --rank "$TRTDIST_RANK" \
    -- "${TRTDIST_COMMAND[@]}"
