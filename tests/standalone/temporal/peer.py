"""Stands for Temporal behind the relay: it sends back what comes, to either of its ports.

`python peer.py MODE`: `echo`; `exit`, which ends with 7 as soon as somebody has connected; `quiet`,
which accepts and never reads.
"""

import socket
import sys
import threading
import time

PORTS = (7233, 8233)
mode = sys.argv[1]


def serve(connection: socket.socket, port: int) -> None:
    if mode == "quiet":
        time.sleep(3600)
    connection.sendall(f"{port} ".encode())
    while piece := connection.recv(65536):
        connection.sendall(piece)
    connection.sendall(b" end")
    connection.close()


def listen(listener: socket.socket, port: int) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, port), daemon=True).start()


listeners = [socket.create_server(("127.0.0.1", port)) for port in PORTS]
print("listens", flush=True)
if mode == "exit":
    listeners[0].accept()
    sys.exit(7)
for each in zip(listeners, PORTS, strict=True):
    threading.Thread(target=listen, args=each, daemon=True).start()
threading.Event().wait()
