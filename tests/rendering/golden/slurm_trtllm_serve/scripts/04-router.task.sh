#!/usr/bin/env bash
# test, step 04-router: what its process does.
set -euo pipefail

# They told the runtime about folders of the node.
unset "${!XDG_@}"

# container.env of the topology.
export OMP_NUM_THREADS=8
HF_TOKEN=$(</home/me/.token)
export HF_TOKEN

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
TRTDIST_PYTHON=python3
if ! command -v "$TRTDIST_PYTHON" >/dev/null; then
    echo "trtdist: node ${SLURMD_NODENAME:-$HOSTNAME} finds no $TRTDIST_PYTHON in its image: take one with Python 3.9" \
        "or newer, or name its Python in container.python" >&2
    exit 127
fi

export PYTHONPATH=$TRTDIST_RUN_DIR/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TRTDIST_STEP=router

# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

# Where servers and services are was found in the allocation.
fill() {
    local text pair
    text=$(<"$1")
    for pair in $TRTDIST_ENDPOINTS; do
        text=${text//"@${pair%%=*}@"/"${pair#*=}"}
    done
    text=${text//@host@/"$TRTDIST_HTTP_HOST"}
    text=${text//\'@port@\'/"$TRTDIST_HTTP_PORT"}
    text=${text//@run@/"$TRTDIST_RUN_ID"}
    pair=${ETCD_ENDPOINTS:-}
    text=${text//@etcd@/"${pair//http:/etcd:}"}
    (umask 077 && printf '%s\n' "$text" >"$2")
}

fill "$TRTDIST_RUN_DIR/scripts/"04-router.disagg_config.yaml "$TRTDIST_LOCAL_DIR/disagg_config.yaml"

# It may start MPI, whose session files and shared memory lie with the run's other local files and go with them.
export TMPDIR=$TRTDIST_LOCAL_DIR/mpi.router
export OMPI_MCA_btl_sm_backing_directory=$TMPDIR OMPI_MCA_btl_vader_backing_directory=$TMPDIR
(umask 077 && mkdir -p "$TMPDIR")

TRTDIST_COMMAND=(
    "$TRTDIST_PYTHON" -S -m trtdist.supervisor.free_port "$TRTDIST_HTTP_HOST:$TRTDIST_HTTP_PORT"
    trtllm-serve disaggregated -c "$TRTDIST_LOCAL_DIR/disagg_config.yaml"
    -t 1800 -r 3600
)

exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
    --run-dir "$TRTDIST_RUN_DIR" --step router --name router \
    -- "${TRTDIST_COMMAND[@]}"
