#!/bin/bash
# Configuration and many small files, as an application brings them.
set -euo pipefail
mkdir -p /etc/labapp/conf.d /srv/www/lab /var/lib/labapp
for i in $(seq 1 40); do
  printf '[unit%02d]\nenabled=true\nport=%d\n' "$i" $((8000 + i)) > "/etc/labapp/conf.d/$i.conf"
done
cat > /etc/sysctl.d/60-lab.conf <<'END'
net.core.somaxconn = 4096
vm.swappiness = 10
END
for ((i = 0; i < 3000; i++)); do
  d=/var/lib/labapp/$((i / 100))
  [ $((i % 100)) -ne 0 ] || mkdir -p "$d"
  printf 'record %d\nvalue %d\n' "$i" $((i * 7919 % 10007)) > "$d/r$i.txt"
done
echo '<h1>lab image</h1>' > /srv/www/lab/index.html
(cd /opt/app && find . -type f | sort | xargs sha256sum) > /var/lib/labapp/MANIFEST
