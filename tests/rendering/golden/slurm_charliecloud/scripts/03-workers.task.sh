#!/usr/bin/env bash
# test, step 03-workers: what each task does. It enters the container and becomes a rank there.
set -euo pipefail

TRTDIST_TASK=${SLURM_PROCID:-}

# task) server, rank in it, its ranks, rank in the deployment, GPU, node
case $TRTDIST_TASK in
    0) set -- ctx.0 0 2 0 0 0 ;;
    1) set -- ctx.0 1 2 1 1 0 ;;
    2) set -- gen.0 0 2 2 0 1 ;;
    3) set -- gen.0 1 2 3 1 1 ;;
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

# slurm.setup of the topology. Files that modules and environments source often use variables that are not set.
set +u
eval 'module load charliecloud'
set -u

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
        --run-dir "$TRTDIST_RUN_DIR" --step workers --name "$1" --refuse "$2"
}

# Slurm may sort and move tasks, and a rank on another node would take the GPUs of others.
read -r -a TRTDIST_PLACES <<<"$TRTDIST_NODES"
if [[ ${SLURMD_NODENAME:-} != "${TRTDIST_PLACES[$6]}" ]]; then
    refuse "$1.$2" "is task $TRTDIST_TASK and belongs on ${TRTDIST_PLACES[$6]}, but runs on ${SLURMD_NODENAME:-no node}"
fi

export TRTDIST_STEP=workers TRTDIST_ENTERS=$1.$2
# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

# PYTHONPATH is that of the program that enters, alone. It needs no packages.
PYTHONPATH=$TRTDIST_RUN_DIR/site exec "$TRTDIST_PYTHON" -S -m trtdist.supervisor.enter \
    --runtime=charliecloud \
    '--image=/images/it'\''s one' \
    --mount=/data:/data:ro \
    --mount=/scratch:/scratch \
    --mount=/home/me/.token:/home/me/.token:ro \
    --ulimit=memlock=-1 \
    -- bash "$TRTDIST_RUN_DIR/scripts/"03-workers.inside.sh
