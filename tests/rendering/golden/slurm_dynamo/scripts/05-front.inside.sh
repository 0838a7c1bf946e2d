#!/usr/bin/env bash
# test, step 05-front: what its process does.
set -euo pipefail

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
export TRTDIST_STEP=front

# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

export DYN_NAMESPACE=$TRTDIST_RUN_ID
if [[ -r $TRTDIST_RUN_DIR/secrets/nats.user ]]; then
    NATS_AUTH_USERNAME=$(<"$TRTDIST_RUN_DIR/secrets/nats.user")
    NATS_AUTH_PASSWORD=$(<"$TRTDIST_RUN_DIR/secrets/nats.password")
    export NATS_AUTH_USERNAME NATS_AUTH_PASSWORD
fi
# Others reach it at the address that was chosen for this node; it would take one of its own choice.
export DYN_TCP_RPC_HOST=${TRTDIST_NODE_ADDRESS:-$TRTDIST_HEAD_ADDRESS}
export DYN_TCP_RESPONSE_STREAM_HOST=$DYN_TCP_RPC_HOST

# It may start MPI, whose session files and shared memory lie with the run's other local files and go with them.
export TMPDIR=$TRTDIST_LOCAL_DIR/mpi.front
export OMPI_MCA_btl_sm_backing_directory=$TMPDIR OMPI_MCA_btl_vader_backing_directory=$TMPDIR
(umask 077 && mkdir -p "$TMPDIR")

TRTDIST_COMMAND=(
    "$TRTDIST_PYTHON" -m dynamo.frontend
    --http-host "$TRTDIST_HTTP_HOST" --http-port "$TRTDIST_HTTP_PORT" --router-mode kv
    --enforce-disagg
)

exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
    --run-dir "$TRTDIST_RUN_DIR" --step front --name front \
    -- "${TRTDIST_COMMAND[@]}"
