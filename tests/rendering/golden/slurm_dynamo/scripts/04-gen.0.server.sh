#!/usr/bin/env bash
# test, step 04-gen.0: the server, which the launcher starts beside the first rank.
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
fill "$TRTDIST_RUN_DIR/scripts/"04-gen.0.extra_llm_api_options.yaml "$OPTIONS"

export DYN_NAMESPACE=$TRTDIST_RUN_ID
if [[ -r $TRTDIST_RUN_DIR/secrets/nats.user ]]; then
    NATS_AUTH_USERNAME=$(<"$TRTDIST_RUN_DIR/secrets/nats.user")
    NATS_AUTH_PASSWORD=$(<"$TRTDIST_RUN_DIR/secrets/nats.password")
    export NATS_AUTH_USERNAME NATS_AUTH_PASSWORD
fi
# Others reach it at the address that was chosen for this node; it would take one of its own choice.
export DYN_TCP_RPC_HOST=${TRTDIST_NODE_ADDRESS:-$TRTDIST_HEAD_ADDRESS}
export DYN_TCP_RESPONSE_STREAM_HOST=$DYN_TCP_RPC_HOST
# It answers /health there, with 200 once its endpoint serves.
export DYN_SYSTEM_ENABLED=true DYN_SYSTEM_HOST=${TRTDIST_LISTEN%:*} DYN_SYSTEM_PORT=${TRTDIST_LISTEN##*:}
export DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS='["generate"]'

COMMAND=(
    "$TRTDIST_PYTHON" -m dynamo.trtllm --model-path some/model --served-model-name some/model
    --disaggregation-mode decode
    --publish-events-and-metrics
    --extra-engine-args "$OPTIONS"
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
