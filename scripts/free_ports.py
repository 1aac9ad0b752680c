"""Prints N free ports of 127.0.0.1 whose twins 10000 above (SeaweedFS's gRPC ports) are free too."""

import socket
import sys


def is_free(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def main():
    wanted, found = int(sys.argv[1]), []
    while len(found) < wanted:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        base = 20000 + port % 20000
        if base not in found and is_free(base) and is_free(base + 10000):
            found.append(base)
    print(*found)


main()
