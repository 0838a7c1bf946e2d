#!/usr/bin/env bash
# test, step 04-router: what its process does.
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

TRTDIST_COMMAND=("$TRTDIST_PYTHON" -m trtdist.serving.router "$TRTDIST_RUN_DIR")

exec "$TRTDIST_PYTHON" -I -S "$TRTDIST_RUN_DIR/site/trtdist/supervisor/shim.py" \
    --run-dir "$TRTDIST_RUN_DIR" --step router --name router \
    -- "${TRTDIST_COMMAND[@]}"
