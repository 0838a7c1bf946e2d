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

# container.env of the topology.
export OMP_NUM_THREADS=8

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

export PYTHONPATH=$TRTDIST_RUN_DIR/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TRTDIST_STEP=ctx.0 TRTDIST_LAUNCH=per_server
export TRTDIST_SERVER=$1 TRTDIST_RANK=$2 TRTDIST_SERVER_SIZE=$3 TRTDIST_WORLD_RANK=$4 TRTDIST_GPU=$5
read -r -a TRTDIST_AT <<<"$TRTDIST_ADDRESSES"
export TRTDIST_NODE_ADDRESS=${TRTDIST_AT[$6]}

read -r -a TRTDIST_AHEAD <<<"$TRTDIST_CLOCKS"
export TRTDIST_CLOCK_AHEAD=${TRTDIST_AHEAD[$6]}

# Session files and shared memory of MPI lie with the run's other local files and go with them.
export TMPDIR=$TRTDIST_LOCAL_DIR/mpi.$TRTDIST_STEP
export OMPI_MCA_btl_sm_backing_directory=$TMPDIR OMPI_MCA_btl_vader_backing_directory=$TMPDIR
(umask 077 && mkdir -p "$TMPDIR")

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
    trtllm-llmapi-launch bash scripts/03-ctx.0.server.sh
)

exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
    --run-dir "$TRTDIST_RUN_DIR" --step "$TRTDIST_STEP" --name "$TRTDIST_SERVER.$TRTDIST_RANK" \
    --server "$TRTDIST_SERVER" --rank "$TRTDIST_RANK" \
    -- "${TRTDIST_COMMAND[@]}"
