#!/bin/bash
# In a fresh boot of the finished image.
set -euo pipefail
for _ in $(seq 1 60); do
  systemctl -q is-active nginx && break
  sleep 1
done
systemctl is-active nginx
test "$(curl -fsS http://127.0.0.1/healthz)" = ok-lab
curl -fsS http://127.0.0.1/ | grep -q 'lab image'
(cd /opt/app && sha256sum --quiet -c /var/lib/labapp/MANIFEST)
echo TEST-PASS
