#!/usr/bin/python3
"""Makes a folder for an nginx workload: a master with workers that serves seeded files.

usage: nginx_site.py FOLDER --port PORT --witness STARLING-WITNESS [--workers N] [--keys N]
                     [--value-size BYTES] [--seed N]

Prints the command line of the component. Watch it with
  starling-witness --protocol http --keys N --value-size BYTES --seed N --connect ...
which compares every byte that it is served. The folder must be the same on both hosts; nginx keeps
no file in it open for writing.
"""

import argparse
import os
import shlex
import subprocess
import sys

# keepalive_requests: nginx closes a connection after 1000 requests unless told otherwise, and the
# witness would rightly call that broken. Messages go to standard error, which is the component's
# log wherever it runs, not a file of the host it was started on.
CONFIGURATION = """\
worker_processes {workers};
daemon off;
user root;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000000;
  keepalive_timeout 1d;
  client_body_temp_path {folder}/tmp;
  proxy_temp_path {folder}/tmp;
  fastcgi_temp_path {folder}/tmp;
  uwsgi_temp_path {folder}/tmp;
  scgi_temp_path {folder}/tmp;
  server {{
    listen {port};
    root {folder}/www;
  }}
}}
"""


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--witness", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--value-size", type=int, default=16384)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = os.path.realpath(arguments.folder)
    os.makedirs(os.path.join(folder, "tmp"), exist_ok=True)
    subprocess.run([arguments.witness, "--make-site", os.path.join(folder, "www"), "--keys",
                    str(arguments.keys), "--value-size", str(arguments.value_size), "--seed",
                    str(arguments.seed)], check=True)
    configuration = os.path.join(folder, "nginx.conf")
    with open(configuration, "w", encoding="utf-8") as target:
        target.write(CONFIGURATION.format(folder=folder, port=arguments.port,
                                          workers=arguments.workers))
    print(shlex.join(["nginx", "-e", "stderr", "-c", configuration]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
