"""Real servers for tests, each on 127.0.0.1 with a port and a folder of its own, and a proxy that breaks connections.

    python3 -m testkit start     in server/: starts them all, prints where they are as `export NAME=VALUE` lines
    python3 -m testkit proxy     relays a port with faults

Python's standard library only: it must run before anything is installed. It knows nothing of Marquee itself.
"""
