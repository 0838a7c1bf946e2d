#!/usr/bin/env bash
# test, step 03-ctx.0: what each task does. It enters the container and becomes a rank there.
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

if [[ -n $TRTDIST_REMOVED ]]; then
    echo "${TRTDIST_REMOVED% }" >"$TRTDIST_RUN_DIR/logs/removed.$1.$2.txt"
fi

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

export TRTDIST_STEP=ctx.0 TRTDIST_ENTERS=$1.$2
# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

# PYTHONPATH is that of the program that enters, alone. It needs no packages.
PYTHONPATH=$TRTDIST_RUN_DIR/site exec "$TRTDIST_PYTHON" -S -m trtdist.supervisor.enter \
    --runtime=apptainer \
    --image=/images/dynamo.sif \
    --mount=/models:/models:ro \
    --gpus \
    -- bash "$TRTDIST_RUN_DIR/scripts/"03-ctx.0.inside.sh
