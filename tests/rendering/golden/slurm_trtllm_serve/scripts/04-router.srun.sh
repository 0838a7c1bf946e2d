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

read -r -a TRTDIST_PLACES <<<"$TRTDIST_NODES"
TRTDIST_LIST=${TRTDIST_PLACES[0]}

# A hook of enroot reads it before anything runs inside.
export NVIDIA_VISIBLE_DEVICES=all
# srun keeps only the last --container-mounts that it is given, so one has them all.
TRTDIST_MOUNTS="$TRTDIST_RUN_DIR:$TRTDIST_RUN_DIR,$TRTDIST_RUN_DIR/site:$TRTDIST_RUN_DIR/site:ro"
TRTDIST_MOUNTS+=",$TRTDIST_LOCAL_DIR:$TRTDIST_LOCAL_DIR"
TRTDIST_MOUNTS+=,/home/me/.token:/home/me/.token:ro
TRTDIST_CONTAINER=(
    --container-mounts="$TRTDIST_MOUNTS"
    --container-image=/images/trtllm.sqsh
    --no-container-mount-home
    --container-readonly
)
# Not every release of pyxis has these.
TRTDIST_HELP=$(srun --help)
if [[ $TRTDIST_HELP == *--no-container-entrypoint* ]]; then
    TRTDIST_CONTAINER+=(--no-container-entrypoint)
fi
if [[ $TRTDIST_HELP == *--container-env* ]]; then
    TRTDIST_CONTAINER+=(--container-env=NVIDIA_VISIBLE_DEVICES)
fi
# Inside, nothing tells the variables of the site from those of the image: only what is named here crosses.
TRTDIST_EXPORT=PATH
for TRTDIST_NAME in $(compgen -e); do
    case $TRTDIST_NAME in
        HOME | USER | LOGNAME | TERM | TRTDIST_* | CUDA_VISIBLE_DEVICES | CUDA_DEVICE_ORDER | ENROOT_* | XDG_*)
            TRTDIST_EXPORT+=,$TRTDIST_NAME
            ;;
        NVIDIA_VISIBLE_DEVICES) TRTDIST_EXPORT+=,$TRTDIST_NAME ;;
        PATH | _ | PWD | OLDPWD | SHLVL | SLURM_*) ;;
        *) TRTDIST_REMOVED+="$TRTDIST_NAME " ;;
    esac
done
TRTDIST_CONTAINER+=(--export="$TRTDIST_EXPORT")

exec srun --job-name=router --nodes=1 --ntasks=1 --nodelist="$TRTDIST_LIST" \
    --overlap --mem=0 --cpu-bind=none --mpi="$TRTDIST_MPI_TYPE" --input=none \
    "${TRTDIST_CONTAINER[@]}" \
    bash "$TRTDIST_RUN_DIR/scripts/"04-router.task.sh </dev/null
