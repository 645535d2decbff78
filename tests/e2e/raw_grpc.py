#!/usr/bin/python3
"""As much of gRPC over HTTP/2 as it takes to play a peer of another version.

With STARLING_TLS="AUTHORITY:CERTIFICATE:KEY" in the environment (PEM files) it speaks TLS, and asks
for the certificate of whoever calls; what the other side refuses in the handshake it prints as
"TLS: ...". STARLING_TLS="AUTHORITY" shows no certificate, STARLING_TLS_VERSION="1.2" speaks no
newer version.

usage: raw_grpc.py call ADDRESS PORT METHOD HEX    prints what came back, with what is not text left
                                                   out (status and message are in it as text)
       raw_grpc.py refuse ADDRESS PORT MESSAGE     answers every call with FAILED_PRECONDITION
"""

import os
import socket
import ssl
import struct
import sys
import threading
import urllib.parse

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM, ACK, END_HEADERS = 1, 1, 4
STATUS_200 = b"\x88"  # RFC 7541, appendix A
FAILED_PRECONDITION = 9


def frame(kind, flags, stream, body=b""):
    return struct.pack("!I", len(body))[1:] + struct.pack("!BBI", kind, flags, stream) + body


def integer(value, prefix_bits):
    """RFC 7541, 5.1, with all bits before the prefix zero."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([value])
    out, value = bytes([most]), value - most
    while value >= 128:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def header(name, value):
    """A literal without indexing, without Huffman's code."""
    name, value = name.encode(), value.encode()
    return b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value


def frames(connection):
    """Frames as they come: kind, flags, stream, body."""
    stream = connection.makefile("rb")
    while True:
        head = stream.read(9)
        if len(head) < 9:
            return
        kind, flags, number = struct.unpack("!BBI", head[3:])
        yield kind, flags, number, stream.read(int.from_bytes(head[:3], "big"))


def secured(connection, server):
    """The connection under TLS, where the environment says so."""
    authority, *own = os.environ.get("STARLING_TLS", "").split(":")
    if not authority:
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    if os.environ.get("STARLING_TLS_VERSION") == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if own:
        context.load_cert_chain(*own)
    return context.wrap_socket(connection, server_side=server)


def courtesy(connection, kind, flags):
    if kind == SETTINGS and not flags & ACK:
        connection.sendall(frame(SETTINGS, ACK, 0))


def call(address, port, method, message):
    try:
        return answered(address, port, method, message)
    except (ssl.SSLError, ConnectionError) as error:
        # TLS 1.3 refuses a client's certificate only after the client's handshake is over; gRPC does
        # it by hanging up.
        return f"TLS: {error}"


def answered(address, port, method, message):
    with secured(socket.create_connection((address, port), timeout=60), False) as connection:
        fields = b"".join(header(name, value) for name, value in (
            (":method", "POST"), (":scheme", "http"), (":path", method),
            (":authority", f"{address}:{port}"), ("content-type", "application/grpc"),
            ("te", "trailers")))
        connection.sendall(
            PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, fields) +
            frame(DATA, END_STREAM, 1, b"\0" + struct.pack("!I", len(message)) + message))
        said = b""
        for kind, flags, number, body in frames(connection):
            courtesy(connection, kind, flags)
            if number == 1:
                said += body
                if flags & END_STREAM and kind in (HEADERS, DATA):
                    break
        if not said:
            raise ConnectionError("the other side hung up")
        text = "".join(chr(byte) if 32 <= byte < 127 else " " for byte in said)
        return urllib.parse.unquote(text)


def answer(connection, message):
    try:
        connection = secured(connection, True)
    except (ssl.SSLError, OSError):
        return
    refusal = (STATUS_200 + header("content-type", "application/grpc") +
               header("grpc-status", str(FAILED_PRECONDITION)) +
               header("grpc-message", urllib.parse.quote(message, safe=" :,.'")))
    with connection:
        left = len(PREFACE)
        while left > 0:
            left -= len(connection.recv(left)) or left
        connection.sendall(frame(SETTINGS, 0, 0))
        for kind, flags, number, body in frames(connection):
            courtesy(connection, kind, flags)
            if kind == PING and not flags & ACK:
                connection.sendall(frame(PING, ACK, 0, body))
            if kind == HEADERS:
                connection.sendall(
                    frame(HEADERS, END_HEADERS | END_STREAM, number, refusal))


def main():
    verb, address, port, *rest = sys.argv[1:]
    if verb == "call":
        print(call(address, int(port), rest[0], bytes.fromhex(rest[1])))
        return
    listener = socket.create_server((address, int(port)))
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, rest[0]), daemon=True).start()


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main()
