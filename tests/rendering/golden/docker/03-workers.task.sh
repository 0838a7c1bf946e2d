#!/usr/bin/env bash
# test, step 03-workers: what each task does. It finds out which rank it is and becomes that rank.
set -euo pipefail

TRTDIST_TASK=${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-}}

# task) server, rank in it, its ranks, rank in the deployment, GPU, node, GPUs of the server on this node
case $TRTDIST_TASK in
    0) set -- ctx.0 0 2 0 0 0 0,1 ;;
    1) set -- ctx.0 1 2 1 1 0 0,1 ;;
    2) set -- gen.0 0 2 2 2 0 2,3 ;;
    3) set -- gen.0 1 2 3 3 0 2,3 ;;
    "")
        echo "$0: no rank in the environment; start this file through the launch line beside it" >&2
        exit 1
        ;;
    *)
        echo "$0: this step has no rank $TRTDIST_TASK" >&2
        exit 1
        ;;
esac

# container.env of the topology.
export NVIDIA_DRIVER_CAPABILITIES=all

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
TRTDIST_PYTHON=python3
if ! command -v "$TRTDIST_PYTHON" >/dev/null; then
    echo "trtdist: node ${SLURMD_NODENAME:-$HOSTNAME} finds no $TRTDIST_PYTHON in its image: take one with Python 3.9" \
        "or newer, or name its Python in container.python" >&2
    exit 127
fi

export PYTHONPATH=$TRTDIST_RUN_DIR/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TRTDIST_STEP=workers TRTDIST_LAUNCH=mpi_world
export TRTDIST_SERVER=$1 TRTDIST_RANK=$2 TRTDIST_SERVER_SIZE=$3 TRTDIST_WORLD_RANK=$4 TRTDIST_GPU=$5
read -r -a TRTDIST_AT <<<"$TRTDIST_ADDRESSES"
export TRTDIST_NODE_ADDRESS=${TRTDIST_AT[$6]}

# A rank that cannot run here says so through its shim, which makes it known as the cause.
refuse() {
    exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
        --run-dir "$TRTDIST_RUN_DIR" --step workers --name "$1" --refuse "$2"
}

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
cd -- /workspace
export PYTHONSAFEPATH=1

TRTDIST_COMMAND=("$TRTDIST_PYTHON" -m trtdist.serving.worker "$TRTDIST_RUN_DIR")

exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
    --run-dir "$TRTDIST_RUN_DIR" --step "$TRTDIST_STEP" --name "$TRTDIST_SERVER.$TRTDIST_RANK" \
    --server "$TRTDIST_SERVER" --rank "$TRTDIST_RANK" \
    -- "${TRTDIST_COMMAND[@]}"
