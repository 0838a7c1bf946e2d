#!/usr/bin/env bash
# test, step 03-gen.1: the launch line of gen.1, one MPI world.
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

TRTDIST_REMOVED=
# What a site sets for its own MPI breaks that of the engine; slurm.setup and container.env may set it again.
for TRTDIST_NAME in UCX_TLS "${!OMPI_MCA_@}"; do
    if [[ -v $TRTDIST_NAME ]]; then
        TRTDIST_REMOVED+="$TRTDIST_NAME "
        unset "$TRTDIST_NAME"
    fi
done
# Left by an outer MPI job or Slurm step, these would make mpiexec take itself for a part of that.
for TRTDIST_NAME in "${!OMPI_@}" "${!PMI_@}" "${!PMIX_@}" "${!PRTE_@}" "${!SLURM_@}"; do
    TRTDIST_REMOVED+="$TRTDIST_NAME "
    unset "$TRTDIST_NAME"
done
if [[ -n $TRTDIST_REMOVED ]]; then
    echo "${TRTDIST_REMOVED% }" >"$TRTDIST_RUN_DIR/logs/removed."gen.1.txt
fi

# One machine: shared memory alone, which spares a search for networks of about a second. Open MPI 4 knows it as vader,
# and so does 5, by its second name.
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader

# Session files and shared memory lie with the run's other local files and go with them.
export TMPDIR=$TRTDIST_LOCAL_DIR/mpi.gen.1
export OMPI_MCA_btl_sm_backing_directory=$TMPDIR OMPI_MCA_btl_vader_backing_directory=$TMPDIR
(umask 077 && mkdir -p "$TMPDIR")

options=(--oversubscribe --bind-to none --stdin none)
if ((EUID == 0)); then
    options+=(--allow-run-as-root)
fi

exec "$TRTDIST_MPIEXEC" "${options[@]}" -n 2 \
    bash "$TRTDIST_RUN_DIR/scripts/"03-gen.1.task.sh </dev/null
