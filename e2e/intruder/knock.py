"""Knocks at the hub with whatever certificate it has and under whatever name it likes.

Usage: knock.py PORT FOLDER-WITH-PKI|none NODE

Prints the status line of the answer to the websocket's upgrade, or what stopped it before that.
Nothing but Python's own library: what a stranger could write in five minutes.
"""

import socket
import ssl
import sys

port, pki, node = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if pki != "none":
    context.load_cert_chain(f"{pki}/node.crt", f"{pki}/node.key")
try:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            secure.sendall(
                f"GET /e632aba927ea4ac2b575ec1603d56f10/{node}/events HTTP/1.1\r\n"
                f"Host: 127.0.0.1:{port}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnectionUse: msg\r\n"
                f"Node_id: {node}\r\nProject_id: e632aba927ea4ac2b575ec1603d56f10\r\n\r\n".encode()
            )
            answer = secure.recv(4096).decode(errors="replace")
            print(answer.splitlines()[0] if answer else "closed")
except (OSError, ssl.SSLError) as error:
    print(f"refused: {error}")
