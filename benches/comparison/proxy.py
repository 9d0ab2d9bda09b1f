"""A TCP proxy on the loopback that counts bytes by direction: `proxy.py TARGET_PORT`.

It prints its port, then answers each line on standard input with `SENT RECEIVED CONNECTIONS`, seen from the clients.
A process of its own, so that nobody waits for the runner. What it counts is the whole of the connections, heads
included: exact, and the same for every client.
"""

import socket
import sys
import threading

PIECE = 1 << 18


class Counted:
    """The counters; threads of many connections add to them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sent = self.received = self.connections = 0

    def add(self, sent, received):
        with self.lock:
            self.sent += sent
            self.received += received


def copy(source, target, count):
    """Copies until the source ends, and passes the end on."""
    buffer = memoryview(bytearray(PIECE))
    try:
        while size := source.recv_into(buffer):
            count(size)
            target.sendall(buffer[:size])
    except OSError:
        # One of the two is gone; the other one is told below.
        pass
    for side, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            side.shutdown(how)
        except OSError:
            pass


def connection(client, port, counted):
    """One connection, both ways."""
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        down = threading.Thread(target=copy, args=(server, client, lambda size: counted.add(0, size)), daemon=True)
        down.start()
        copy(client, server, lambda size: counted.add(size, 0))
        down.join()


def accept(listener, port, counted):
    while True:
        client, _ = listener.accept()
        with counted.lock:
            counted.connections += 1
        threading.Thread(target=connection, args=(client, port, counted), daemon=True).start()


def main():
    counted = Counted()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=accept, args=(listener, int(sys.argv[1]), counted), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    for _ in sys.stdin:
        with counted.lock:
            print(counted.sent, counted.received, counted.connections, flush=True)


if __name__ == "__main__":
    main()
