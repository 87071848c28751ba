"""Start a Ray cluster as its own program, work on it by its address, and stop it again.

Not `ray stop`: that ends every cluster on the machine.
"""

import socket
import subprocess
import sys
import time
from math import sqrt


def main(port, client_port):
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", f"--ray-client-server-port={client_port}", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--object-store-memory=100000000"]
    cluster = subprocess.Popen(command, stdout=sys.stderr)
    try:
        wait_for(int(client_port), cluster)
        from matmill.campaign.ray_workers import RayWorkers

        workers = RayWorkers(address=f"ray://127.0.0.1:{client_port}")
        values = [outcome.value for outcome in workers.map(sqrt, [4.0, 9.0])]
        sys.stdout.write(f"{workers.n_workers} {values}\n")
        workers.close()
    finally:
        cluster.terminate()
        cluster.wait()


def wait_for(port, cluster):
    for _ in range(600):
        assert cluster.poll() is None, "the cluster did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
