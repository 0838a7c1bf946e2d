#!/usr/bin/env bash
# test: runs a script of this folder on the head node, the first of the job: head.srun.sh SCRIPT [ARGUMENT ...]
set -euo pipefail

# What the script is told there as SLURM_JOB_NODELIST is the list of its own step.
export TRTDIST_JOB_NODELIST=${SLURM_JOB_NODELIST:-}

# srun reads SLURM_* and SRUN_* as options, and what an outer task was told would reach this one: the job alone counts.
TRTDIST_REMOVED=
for TRTDIST_NAME in "${!SLURM_@}" "${!SRUN_@}" "${!PMI_@}" "${!PMIX_@}" "${!PRTE_@}" "${!OMPI_@}" "${!PYXIS_@}"; do
    case $TRTDIST_NAME in
        SLURM_JOB_ID | SLURM_CONF | SLURM_CONF_SERVER | SLURM_JWT | SLURM_SACK_* | OMPI_MCA_*) ;;
        *)
            TRTDIST_REMOVED+="$TRTDIST_NAME "
            unset "$TRTDIST_NAME"
            ;;
    esac
done
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "$0: this is no job of Slurm; README.txt in the folder of this file says how to get into one" >&2
    exit 1
fi

TRTDIST_HEAD=$(scontrol show hostnames "$TRTDIST_JOB_NODELIST" | head -n 1)
TRTDIST_SCRIPT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/$1
shift

# On a shared file system, what was written on another machine may show up seconds later.
# shellcheck disable=SC2016
TRTDIST_THERE='for ((TRY = 0; TRY < 50; TRY++)); do if [[ -r $1 ]]; then exec bash "$@"; fi; sleep 0.2; done
echo "node $SLURMD_NODENAME does not see $1: put runs on a file system that all nodes see (TRTDIST_RUNS)" >&2; exit 1'

exec srun --job-name="$(basename -- "$TRTDIST_SCRIPT" .sh)" --nodes=1 --ntasks=1 --nodelist="$TRTDIST_HEAD" \
    --overlap --mem=0 --cpu-bind=none --mpi=none --export=ALL --input=none \
    bash -c "$TRTDIST_THERE" bash "$TRTDIST_SCRIPT" "$@" </dev/null
