#!/usr/bin/env bash
# test, step 04-router: the launch line.
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

exec bash "$TRTDIST_RUN_DIR/scripts/"04-router.task.sh </dev/null
