#!/bin/sh
# The HTTP API from a shell. A server must be running: tollama serve
set -eu
cd "$(dirname "$0")"
URL="${TOLLAMA_URL:-http://127.0.0.1:11435}"

echo "# Is it alive?"
curl -sS --fail-with-body "$URL/v1/health"; echo

echo "# What is installed?"
curl -sS --fail-with-body "$URL/api/tags"; echo

echo "# A forecast of one series"
curl -sS --fail-with-body "$URL/v1/forecast" -H 'Content-Type: application/json' -d @request.json; echo

echo "# Two series with a covariate that is known in the future, checked without running it"
curl -sS --fail-with-body "$URL/api/validate" -H 'Content-Type: application/json' -d @request_covariates.json; echo

echo "# The same forecast, with its progress as lines of JSON"
curl -sS --fail-with-body -N "$URL/api/forecast" -H 'Content-Type: application/json' -d @request_covariates.json
