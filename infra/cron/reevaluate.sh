#!/bin/sh
# Run a re-evaluation by cron, on any machine that reaches the cluster:
#   17 * * * * RAY_ADDRESS=http://HEAD:8265 CATALOG=s3://BUCKET/datasets ZSE_WORKSPACE=s3://BUCKET/zse /opt/zse/infra/cron/reevaluate.sh
# The job's id is the hour, or ID. Ray refuses a second job of the same id, so two machines may have the same crontab.
# MODELS and OPTIONS go to `zse reevaluate`. With authentication, also set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN.
# The exit status says whether Ray took the job, not how the job ends: cron does not report a job that fails later.
# `ray job status ID` and `ray job logs ID` tell it.
set -eu
: "${RAY_ADDRESS:?http://HEAD:8265}" "${CATALOG:?s3://BUCKET/datasets}" "${ZSE_WORKSPACE:?s3://BUCKET/zse}"
id="${ID:-reevaluate-$(date -u +%Y%m%dT%H)}"

# shellcheck disable=SC2086  # OPTIONS has several words
if ray job submit --address "$RAY_ADDRESS" --submission-id "$id" --no-wait -- \
  zse reevaluate --catalog "$CATALOG" --models "${MODELS:-zse@champion,zse@challenger}" --workspace "$ZSE_WORKSPACE" ${OPTIONS:-}; then
  exit 0
fi
# Tell a refused second submission from a cluster that does not answer.
ray job status --address "$RAY_ADDRESS" "$id"
