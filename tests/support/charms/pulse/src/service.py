"""Answers every connection with this host's name."""

import socket

with socket.create_server(("", 9000)) as server:
    print("pulse is up", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(socket.gethostname().encode())
