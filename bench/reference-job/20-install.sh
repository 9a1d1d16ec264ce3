#!/bin/bash
# A service from packages that are there already: no network.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
dpkg -i /var/tmp/debs/*.deb
cat > /etc/nginx/sites-available/lab <<'END'
server { listen 80 default_server; root /srv/www/lab; location /healthz { return 200 "ok-lab\n"; } }
END
rm -f /etc/nginx/sites-enabled/default
ln -sf ../sites-available/lab /etc/nginx/sites-enabled/lab
systemctl enable nginx
rm -rf /var/tmp/debs
