"""A proxy on loopback that hands connections through, and cuts those that tests name in the middle of an answer."""

import contextlib
import socket
import threading

CUT_AFTER = 10
"""Bytes of the head or body that still arrive; every answer to be cut is longer."""


class CuttingProxy:
    """Between a client and a server that speaks HTTP on loopback; what it cuts ends early.

    Args:
        server: ``host:port`` behind it.
    """

    def __init__(self, server):
        host, port = server.rsplit(":", 1)
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._plan, self._lock, self.asked, self.num_cut = {}, threading.Lock(), [], 0
        self._open = set()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()
        for each in list(self._open):
            each.close()

    def cut(self, name, *, times, in_head=False):
        """Cut the next answers to GET requests with ``name`` in their first line, in the head or the body."""
        with self._lock:
            self._plan[name.encode()] = [times, in_head]

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        upstream = socket.create_connection(self._server)
        self._open |= {client, upstream}
        wanted = []  # cuts of the next answer: whether in its head

        def requests():
            while data := _received(client):
                line = data.split(b"\r\n", 1)[0]
                if line.endswith(b"HTTP/1.1"):
                    with self._lock:
                        self.asked.append(line.decode())
                        for name, plan in self._plan.items():
                            if line.startswith(b"GET") and name in line and plan[0] > 0:
                                plan[0] -= 1
                                wanted.append(plan[1])
                upstream.sendall(data)
            _close(upstream)

        def answers():
            answer = b""
            while data := _received(upstream):
                if not wanted:
                    client.sendall(data)
                    continue
                answer += data
                end = 0 if wanted[0] else answer.find(b"\r\n\r\n") + 4
                if end >= 4 or wanted[0]:
                    if len(answer) <= end + CUT_AFTER:
                        continue
                    client.sendall(answer[: end + CUT_AFTER])
                    with self._lock:
                        self.num_cut += 1
                    break
            _close(client)
            _close(upstream)

        for work in (requests, answers):
            threading.Thread(target=_quietly, args=(work,), daemon=True).start()


def _quietly(work):
    with contextlib.suppress(OSError):  # the other side is gone
        work()


def _received(end):
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""


def _close(end):
    with contextlib.suppress(OSError):  # it is closed already
        end.shutdown(socket.SHUT_RDWR)
    end.close()
