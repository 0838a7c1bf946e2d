#!/usr/bin/env bash
# test, step 01-nats: what its process does.
set -euo pipefail

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

export PYTHONPATH=$TRTDIST_RUN_DIR/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TRTDIST_STEP=nats

# Python imports from the working folder first; it must not find anything else there.
cd -- "$TRTDIST_RUN_DIR/site"

TRTDIST_COMMAND=("$TRTDIST_PYTHON" -m trtdist.services nats "$TRTDIST_RUN_DIR")

exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
    --run-dir "$TRTDIST_RUN_DIR" --step nats --name nats --ignore-first-term \
    -- "${TRTDIST_COMMAND[@]}"
