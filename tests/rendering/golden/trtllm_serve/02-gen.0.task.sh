#!/usr/bin/env bash
# test, step 02-gen.0: what each task does. It finds out which rank it is and becomes that rank.
set -euo pipefail

TRTDIST_TASK=${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-}}

# task) server, rank in it, its ranks, rank in the deployment, GPU, node, GPUs of the server on this node
case $TRTDIST_TASK in
    0) set -- gen.0 0 2 2 2 0 2,3 ;;
    1) set -- gen.0 1 2 3 3 0 2,3 ;;
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
export OMP_NUM_THREADS=4
export HF_HUB_OFFLINE=1
export TRANSFORMERS_OFFLINE=1

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

export PYTHONPATH=$TRTDIST_RUN_DIR/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TRTDIST_STEP=gen.0 TRTDIST_LAUNCH=per_server
export TRTDIST_SERVER=$1 TRTDIST_RANK=$2 TRTDIST_SERVER_SIZE=$3 TRTDIST_WORLD_RANK=$4 TRTDIST_GPU=$5
read -r -a TRTDIST_AT <<<"$TRTDIST_ADDRESSES"
export TRTDIST_NODE_ADDRESS=${TRTDIST_AT[$6]}

# A rank that cannot run here says so through its shim, which makes it known as the cause.
refuse() {
    exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
        --run-dir "$TRTDIST_RUN_DIR" --step gen.0 --name "$1" --refuse "$2"
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

for TRTDIST_PAIR in $TRTDIST_ENDPOINTS; do
    if [[ ${TRTDIST_PAIR%%=*} == "$1" ]]; then
        export TRTDIST_LISTEN=${TRTDIST_PAIR#*=}
    fi
done
for TRTDIST_PAIR in $TRTDIST_MASTERS; do
    if [[ ${TRTDIST_PAIR%%=*} == "$1" ]]; then
        export MASTER_PORT=${TRTDIST_PAIR#*=}
    fi
done
# A hook of enroot gives all servers of a job the same two.
export MASTER_ADDR=${TRTDIST_AT[0]}
# Experts that ranks of a node share lie in /dev/shm by this name, which must be that of one server.
export TRTLLM_EPLB_SHM_NAME=moe_shared_${TRTDIST_LOCAL_DIR##*/}.$1

# The launcher takes its arguments apart at blanks, so none of these may have any.
cd -- "$TRTDIST_RUN_DIR"
TRTDIST_COMMAND=(
    "$TRTDIST_PYTHON" -S -m trtdist.supervisor.launched
    trtllm-llmapi-launch bash scripts/02-gen.0.server.sh
)

exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
    --run-dir "$TRTDIST_RUN_DIR" --step "$TRTDIST_STEP" --name "$TRTDIST_SERVER.$TRTDIST_RANK" \
    --server "$TRTDIST_SERVER" --rank "$TRTDIST_RANK" \
    -- "${TRTDIST_COMMAND[@]}"
