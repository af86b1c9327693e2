#!/bin/sh
# Bring the index of a catalogue up to date by cron, on any machine that reaches the cluster:
#   37 2 * * * RAY_ADDRESS=http://HEAD:8265 INDEX=s3://BUCKET/photos.index ZSE_WORKSPACE=s3://BUCKET/zse /opt/zse/infra/cron/index.sh
# PHOTOS is the catalogue; it is needed for the first run only. MODEL and OPTIONS go to `zse index`.
# The job's id is the hour and a checksum of INDEX, or ID. Ray refuses a second job of the same id, so two machines may
# have the same crontab.
# With authentication, also set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN.
# The exit status says whether Ray took the job, not how the job ends: cron does not report a job that fails later.
# `ray job status ID` and `ray job logs ID` tell it.
set -eu
: "${RAY_ADDRESS:?http://HEAD:8265}" "${INDEX:?s3://BUCKET/photos.index}" "${ZSE_WORKSPACE:?s3://BUCKET/zse}"
id="${ID:-index-$(date -u +%Y%m%dT%H)-$(printf %s "$INDEX" | cksum | cut -d ' ' -f 1)}"

# shellcheck disable=SC2086  # OPTIONS has several words
if ray job submit --address "$RAY_ADDRESS" --submission-id "$id" --no-wait -- \
  zse index ${PHOTOS:+"$PHOTOS"} --index "$INDEX" --model "${MODEL:-models:/zse@champion}" --workspace "$ZSE_WORKSPACE" ${OPTIONS:-}; then
  exit 0
fi
# Tell a refused second submission from a cluster that does not answer.
ray job status --address "$RAY_ADDRESS" "$id"
