"""Stands for the process that has MLflow: answers one question, and ends."""

from __future__ import annotations

import json
import socket
import sys

FOUND = {"name": "henaw", "number": 3, "folder": "/nowhere/clock", "registered": [{"flags": "é", "risk": None}]}

if __name__ == "__main__":
    client, _ = socket.socket(fileno=int(sys.argv[2])).accept()
    with client, client.makefile("rwb") as stream:
        stream.readline()
        stream.write(json.dumps({"found": FOUND}).encode() + b"\n")
