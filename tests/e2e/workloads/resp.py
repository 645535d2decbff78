"""A small server of Redis' protocol for the test workloads, so that one witness checks them all.

Answers PING, SET, GET and DIGEST (what the program says of its whole state, as one JSON string).
"""

import socket
import threading


class RespServer:
    """Serves connections on `port`, one thread each.

    `program` has store(key, value), which returns once the write is as durable as the program
    promises, fetch(key), which returns bytes or None, and digest(), which returns a string.
    """

    def __init__(self, port, program):
        self._program = program
        self._listener = socket.create_server(("0.0.0.0", port), backlog=16)

    def serve(self):
        """Never returns."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        with connection, stream:
            try:
                while words := self._request(stream):
                    connection.sendall(self._answer(words))
            except (ConnectionError, ValueError):
                pass  # the client left, or speaks something else

    @staticmethod
    def _request(stream):
        """The words of one request; None at the end of the stream."""
        line = stream.readline()
        if not line:
            return None
        if not line.startswith(b"*"):
            return line.split()  # an inline command, as people type it
        words = []
        for _ in range(int(line[1:])):
            size = int(stream.readline()[1:])
            words.append(stream.read(size))
            stream.read(2)
        return words

    def _answer(self, words):
        verb = words[0].upper()
        try:
            if verb == b"SET" and len(words) == 3:
                self._program.store(words[1], words[2])
                return b"+OK\r\n"
            if verb == b"GET" and len(words) == 2:
                return self._bulk(self._program.fetch(words[1]))
            if verb == b"DIGEST":
                return self._bulk(self._program.digest().encode())
            if verb == b"PING":
                return b"+PONG\r\n"
        except Exception as error:  # the client is to see whatever went wrong, and go on
            return b"-ERR %s\r\n" % repr(error).encode().replace(b"\r\n", b" ")
        return b"-ERR unknown command\r\n"

    @staticmethod
    def _bulk(value):
        return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)
