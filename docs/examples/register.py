#!/usr/bin/env python3
"""Registers an app that is running, from any language that can speak HTTP: here Python's standard library and etcd's
JSON gateway. Keeps the lease until TERM or INT; then leaves in order: no request fails.

    python3 register.py --etcd http://127.0.0.1:2379 --service web --instance web-1 --address 10.0.0.5 --port 3000

The protocol is docs/records.md's: a leased key. Everything else is courtesy to the clients.
"""
import argparse
import base64
import json
import signal
import sys
import time
import urllib.error
import urllib.request
import uuid

PREFIX = "/leasehold/v1"
TTL_S = 10
# Three beats within one ttl, so that two may be lost.
BEAT_EVERY_S = TTL_S / 3


class Etcd:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def call(self, path, **body):
        """One call; an etcd that is stopped keeps its connections and answers nothing, so each has a deadline."""
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=3) as answer:
            return json.load(answer)

    def grant(self):
        return self.call("lease/grant", TTL=TTL_S)["ID"]

    def beat(self, lease):
        """Whether the lease still lives: etcd answers without a TTL for one that is gone."""
        return int(self.call("lease/keepalive", ID=lease).get("result", {}).get("TTL", 0)) > 0

    def put(self, key, value, lease):
        self.call("kv/put", key=encode(key), value=encode(json.dumps(value)), lease=lease)

    def below(self, prefix):
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = self.call("kv/range", key=encode(prefix), range_end=encode(end)).get("kvs", [])
        return {decode(kv["key"])[len(prefix):]: json.loads(decode(kv["value"])) for kv in found}


def encode(text):
    return base64.b64encode(text.encode()).decode()


def decode(text):
    return base64.b64decode(text).decode()


class Stop(Exception):
    """TERM or INT."""


def stop(*_):
    raise Stop


def keep(etcd, key, record):
    """Holds the key under a lease for ever. A lease that is lost is replaced at once, under the same name."""
    lease = None
    while True:
        begun = time.monotonic()
        try:
            if lease is None or not etcd.beat(lease):
                lease = etcd.grant()
                etcd.put(key, record, lease)
                print(f"registered at {record['address']}:{record['port']}", flush=True)
            yield lease
        except (OSError, ValueError) as error:
            # The app goes on, and balancers keep it: nobody is to fail because etcd is away.
            print(f"etcd: {error}; tried again", file=sys.stderr, flush=True)
        time.sleep(max(0.2, BEAT_EVERY_S - (time.monotonic() - begun)))


def awaited(etcd, service, instance, owner):
    """The balancers that serve the service and have not said that they are done with us."""
    present = {name for name, it in etcd.below(f"{PREFIX}/balancers/").items() if service in it.get("services", [])}
    acks = {name: etcd.below(f"{PREFIX}/acks/{name}/{service}/{instance}").get("") for name in present}
    return {name for name, ack in acks.items() if not (ack and ack["owner"] == owner and ack["state"] == "drained")}


def leave(etcd, lease, key, record, service, instance):
    """Says that it goes, waits until every balancer has let go of it, and gives the lease back."""
    etcd.put(key, {**record, "state": "draining"}, lease)
    end = time.monotonic() + 60
    while (names := awaited(etcd, service, instance, record["owner"])) and time.monotonic() < end:
        etcd.beat(lease)
        time.sleep(0.05)
    etcd.call("lease/revoke", ID=lease)
    print(f"left; not waited for: {', '.join(sorted(names))}" if names else "left", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--etcd", default="http://127.0.0.1:2379")
    for name in ["service", "instance", "address"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    etcd = Etcd(options.etcd)
    key = f"{PREFIX}/instances/{options.service}/{options.instance}"
    # The owner is a new one in each life: by it acks to this life are told from those to the one before.
    record = {"address": options.address, "port": options.port, "owner": uuid.uuid4().hex[:16]}
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    lease = None
    try:
        for lease in keep(etcd, key, record):
            pass
    except Stop:
        if lease is not None:
            leave(etcd, lease, key, record, options.service, options.instance)


if __name__ == "__main__":
    main()
