#!/usr/bin/env bash
# test, step 03-workers: the launch line of ctx.0 gen.0, one MPI world in one container.
set -euo pipefail

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

TRTDIST_REMOVED=
# What a site sets for its own MPI breaks that of the engine; slurm.setup and container.env may set it again.
for TRTDIST_NAME in UCX_TLS "${!OMPI_MCA_@}"; do
    if [[ -v $TRTDIST_NAME ]]; then
        TRTDIST_REMOVED+="$TRTDIST_NAME "
        unset "$TRTDIST_NAME"
    fi
done
# Left by an outer MPI job or Slurm step, these would make mpiexec take itself for a part of that.
for TRTDIST_NAME in "${!OMPI_@}" "${!PMI_@}" "${!PMIX_@}" "${!PRTE_@}" "${!SLURM_@}"; do
    TRTDIST_REMOVED+="$TRTDIST_NAME "
    unset "$TRTDIST_NAME"
done
if [[ -n $TRTDIST_REMOVED ]]; then
    echo "${TRTDIST_REMOVED% }" >"$TRTDIST_RUN_DIR/logs/removed."workers.txt
fi

# Inside there may be no program that lists them.
if [[ ! -v CUDA_VISIBLE_DEVICES ]]; then
    CUDA_VISIBLE_DEVICES=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd, -)
    export CUDA_VISIBLE_DEVICES
fi

# The container runtime reads these of container.env before anything runs inside.
export NVIDIA_DRIVER_CAPABILITIES=all

export TRTDIST_STEP=workers TRTDIST_ENTERS=workers
# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

# PYTHONPATH is that of the program that enters, alone. It needs no packages.
PYTHONPATH=$TRTDIST_RUN_DIR/site exec "$TRTDIST_PYTHON" -S -m trtdist.supervisor.enter \
    --runtime=docker \
    --image=nvcr.io/nvidia/tensorrt-llm/release:1.2.1 \
    --mount=.:/workspace \
    --variable=NVIDIA_DRIVER_CAPABILITIES \
    --ulimit=memlock=-1 \
    --ulimit=stack=67108864 \
    --shm-size=64G \
    --gpus \
    -- bash "$TRTDIST_RUN_DIR/scripts/"03-workers.inside.sh
