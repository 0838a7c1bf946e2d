#!/usr/bin/env bash
# test: runs a program once on each node of the job: each-node.srun.sh PROGRAM [ARGUMENT ...]
set -euo pipefail

# In a step, SLURM_JOB_NODELIST is the list of that step.
TRTDIST_LIST=${TRTDIST_JOB_NODELIST:-${SLURM_JOB_NODELIST:-}}

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

TRTDIST_COUNT=$(scontrol show hostnames "$TRTDIST_LIST" | wc -l)

exec srun --job-name=each-node --nodes="$TRTDIST_COUNT" --ntasks="$TRTDIST_COUNT" --ntasks-per-node=1 \
    --nodelist="$TRTDIST_LIST" --distribution=block \
    --overlap --mem=0 --cpu-bind=none --mpi=none --export=ALL --input=none \
    "$@" </dev/null
