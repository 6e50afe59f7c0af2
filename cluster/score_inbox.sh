#!/usr/bin/env bash
# A night: lists what is new in AGESCALE_BUCKET/inbox and scores it. Ends with the code of what ended it.
set -euo pipefail
: "${AGESCALE_BUCKET:?the URI below which inbox/ and the tables lie}"
agescale catalog --source "$AGESCALE_BUCKET/inbox" --layout unlabelled --out "$AGESCALE_BUCKET/inbox-catalog"
exec agescale score --catalog "$AGESCALE_BUCKET/inbox-catalog" --checkpoint "$AGESCALE_BUCKET/runs/fast/best" \
  --out "$AGESCALE_BUCKET/ages" "$@"
