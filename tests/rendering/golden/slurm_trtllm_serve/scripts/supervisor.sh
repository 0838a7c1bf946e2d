#!/usr/bin/env bash
# test: the supervisor, which starts the steps and watches them. Runs on the head node.
set -euo pipefail

TRTDIST_RUN_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
set -a
# shellcheck source=/dev/null
. "$TRTDIST_RUN_DIR/given.env"
set +a

export PYTHONPATH=$TRTDIST_RUN_DIR/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

exec "$TRTDIST_PYTHON" -m trtdist.supervisor "$TRTDIST_RUN_DIR" --slurm \
    --ready-timeout=1800 --service-timeout=30 --stall-timeout=300 --grace=10 --warning=130
