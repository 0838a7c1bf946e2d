#!/usr/bin/env bash
# test, step 02-ctx.0: the server, which the launcher starts beside the first rank.
set -euo pipefail

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

OPTIONS=$TRTDIST_LOCAL_DIR/$TRTDIST_SERVER.extra_llm_api_options.yaml
fill "$TRTDIST_RUN_DIR/scripts/"02-ctx.0.extra_llm_api_options.yaml "$OPTIONS"

COMMAND=(
    "$TRTDIST_PYTHON" -S -m trtdist.supervisor.free_port "$TRTDIST_LISTEN"
    trtllm-serve some/model --host "${TRTDIST_LISTEN%:*}" --port "${TRTDIST_LISTEN##*:}" --backend pytorch
    --tp_size 2 --pp_size 1
    --server_role CONTEXT
    --extra_llm_api_options "$OPTIONS"
)

# The launcher takes OMPI_* away from what it starts, also where shared memory of MPI lies.
export OMPI_MCA_btl_sm_backing_directory=$TMPDIR OMPI_MCA_btl_vader_backing_directory=$TMPDIR

# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

# The launcher hides how this ends, so it is told.
"${COMMAND[@]}" &
echo "pid $!" >&"$TRTDIST_TOLD"
CODE=0
wait "$!" || CODE=$?
echo "exit $CODE" >&"$TRTDIST_TOLD"
exit "$CODE"
