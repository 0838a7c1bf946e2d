#!/usr/bin/env bash
# test, step 03-ctx.0: the launch line of ctx.0, one MPI world.
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

# What a site sets for its own MPI breaks that of the engine; slurm.setup and container.env may set it again.
for TRTDIST_NAME in UCX_TLS "${!OMPI_MCA_@}"; do
    if [[ -v $TRTDIST_NAME ]]; then
        TRTDIST_REMOVED+="$TRTDIST_NAME "
        unset "$TRTDIST_NAME"
    fi
done

read -r -a TRTDIST_PLACES <<<"$TRTDIST_NODES"
TRTDIST_LIST=${TRTDIST_PLACES[0]}

if [[ -n $TRTDIST_REMOVED ]]; then
    echo "${TRTDIST_REMOVED% }" >"$TRTDIST_RUN_DIR/logs/removed."ctx.0.txt
fi

# Steps share CPUs, memory and GPUs; the task file decides who uses which GPU. One dead rank ends the step.
exec srun --job-name=ctx.0 --nodes=1 --ntasks=2 \
    --ntasks-per-node=2 --nodelist="$TRTDIST_LIST" --distribution=block \
    --overlap --mem=0 --cpu-bind=none --mpi="$TRTDIST_MPI_TYPE" --kill-on-bad-exit=1 --export=ALL --input=none \
    bash "$TRTDIST_RUN_DIR/scripts/"03-ctx.0.task.sh </dev/null
