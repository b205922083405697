"""A Ceph RADOS gateway on loopback: the strictest S3 server that installs with apt, in its smallest form.

    radosgw (S3 over HTTP) ---> ceph-osd 0 (objects, in memory) ---> ceph-mon a (the map of the cluster)

One monitor, one OSD with `memstore`, one gateway, all in the foreground as our own children, and no manager.
They authenticate to each other as in any cluster: without (auth = none), a daemon that starts within a second
of the monitor now and then speaks before it knows the cluster's id, and is refused. Options: docs.ceph.com,
"Configuring Ceph" and "Manual deployment". Written for Ceph 16 and later. Starts in 2 s; with the monitor's
default below it takes 13, and without tcp_nodelay every small PUT takes 48 ms instead of 7.
"""

import shutil
import subprocess
import uuid
from pathlib import Path

from tests.servers.ports import free_port, wait_for_http, wait_until
from tests.servers.processes import Daemons

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
GATEWAY = "client.rgw.a"
# users of the cluster itself, one for each daemon and one for us; the S3 user is added to the gateway
USERS = ("mon.", "osd.0", GATEWAY, "client.admin")

GLOBAL = {
    "public_network": "127.0.0.0/8",
    # one copy on one OSD is healthy here, and a tiny pool is created in a moment
    "osd_pool_default_size": "1",
    "osd_pool_default_min_size": "1",
    "osd_pool_default_pg_num": "1",
    "osd_pool_default_pg_autoscale_mode": "off",
    "osd_crush_chooseleaf_type": "0",
    "mon_allow_pool_size_one": "true",
    "mon_max_pg_per_osd": "1000",
    # the monitor gathers changes of its map for a second: too long to wait for each of ten new pools
    "paxos_propose_interval": "0.05",
    # a developer's nearly full disk is no reason to refuse: nothing of size is written to it
    "mon_data_avail_crit": "1",
    "mon_data_avail_warn": "1",
    "osd_objectstore": "memstore",
    "memstore_device_bytes": str(4 << 30),
}


def missing() -> list[str]:
    """The programs of Ceph that are not on PATH."""
    return [program for program in PROGRAMS if not shutil.which(program)]


def start(directory: Path, running: Daemons, *, access_key: str, secret_key: str) -> str:
    """Start the three daemons with their data under `directory`; returns the endpoint, once it answers."""
    cluster = _Cluster(directory)
    cluster.configure()
    cluster.make_keys()
    cluster.start_monitor(running)
    cluster.start_osd(running)
    cluster.add_user(access_key, secret_key)
    return cluster.start_gateway(running)


class _Cluster:
    def __init__(self, directory: Path) -> None:
        self._dir = directory
        self._conf = directory / "ceph.conf"
        self._keyring = directory / "keyring"
        self._fsid = str(uuid.uuid4())
        self._monitor = f"127.0.0.1:{free_port()}"
        self._gateway_port = free_port()

    def configure(self) -> None:
        for name in ("mon", "osd", "run"):
            (self._dir / name).mkdir()
        own = {
            "fsid": self._fsid,
            "mon_host": f"v2:{self._monitor}",
            "keyring": str(self._keyring),
            "mon_data": str(self._dir / "mon"),
            "osd_data": str(self._dir / "osd"),
            "run_dir": str(self._dir / "run"),
            "admin_socket": str(self._dir / "run" / "$name.sock"),
            "log_file": str(self._dir / "$name.ceph.log"),
            "rgw_frontends": f"beast endpoint=127.0.0.1:{self._gateway_port} tcp_nodelay=1",
        }
        lines = [f"{option} = {value}" for option, value in (GLOBAL | own).items()]
        self._conf.write_text("\n".join(["[global]", *lines, ""]))

    def make_keys(self) -> None:
        everything = [part for service in ("mon", "osd", "mgr") for part in ("--cap", service, "allow *")]
        for user in USERS:
            create = [] if self._keyring.exists() else ["--create-keyring"]
            self._run("ceph-authtool", *create, str(self._keyring), "--gen-key", "-n", user, *everything)

    def start_monitor(self, running: Daemons) -> None:
        monmap = str(self._dir / "monmap")
        member = ["--addv", "a", f"[v2:{self._monitor}]"]
        self._run("monmaptool", "--create", *member, "--fsid", self._fsid, monmap)
        self._run("ceph-mon", "--mkfs", "--id", "a", "--monmap", monmap)  # takes over the keys, too
        running.start("ceph-mon", self._argv("ceph-mon", "--id", "a", "-f"))

    def start_osd(self, running: Daemons) -> None:
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)  # waits for the monitor
        self._run("ceph-osd", "--mkfs", "--id", "0", "--osd-uuid", osd)
        running.start("ceph-osd", self._argv("ceph-osd", "--id", "0", "-f"))
        wait_until(lambda: self._osd_is_up(running), timeout_s=60, what="Ceph's OSD to come up")

    def add_user(self, access_key: str, secret_key: str) -> None:
        name = ["--uid", "tests", "--display-name", "tests"]
        keys = ["--access-key", access_key, "--secret-key", secret_key]
        self._run("radosgw-admin", "user", "create", *name, *keys, "-n", GATEWAY)

    def start_gateway(self, running: Daemons) -> str:
        running.start("radosgw", self._argv("radosgw", "-n", GATEWAY, "-f"))
        endpoint = f"http://127.0.0.1:{self._gateway_port}"
        wait_for_http(endpoint, timeout_s=60)
        running.require_alive()
        return endpoint

    def _osd_is_up(self, running: Daemons) -> bool:
        running.require_alive()
        return "1 up" in self._run("ceph", "osd", "stat")

    def _argv(self, program: str, *arguments: str) -> list[str]:
        return [program, "--conf", str(self._conf), *arguments]

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            self._argv(program, *arguments), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"{program} {arguments[0]} ended with status {done.returncode}: {done.stderr[-2000:]}"
            )
        return done.stdout
