"""A Modbus TCP device for the stories, spoken by pymodbus: nothing of Kedge's own is on this side.

Usage: server.py HOST:PORT

Four separate tables of 256 cells each, all zero. What happens is printed as one JSON object a line,
with a monotonic time in seconds:

    {"listening": "127.0.0.1:1502"}
    {"at": 1.25, "connected": 1}            the n-th TCP connection since the start
    {"at": 1.25, "disconnected": true}
    {"at": 1.31, "write": {"table": "holding", "address": 0, "values": [650]}}

Commands are read from stdin, one JSON object a line; each is answered by {"answer": ID, ...}:

    {"id": 1, "set": {"table": "input", "address": 0, "values": [231]}}
    {"id": 2, "get": {"table": "holding", "address": 0, "count": 2}}
    {"id": 3, "stats": {}}                  open connections, reads served, all connections so far
    {"id": 4, "refuse_writes": true}        answer writes with SLAVE DEVICE FAILURE

The end of stdin ends the server, so that it cannot outlive the test that started it.
"""

import asyncio
import json
import sys
import threading
import time

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

CELLS = 256
TABLE_OF_FUNCTION = {
    1: "coil", 5: "coil", 15: "coil",
    2: "discrete",
    3: "holding", 6: "holding", 16: "holding", 22: "holding", 23: "holding",
    4: "input",
}  # fmt: skip


def say(**event):
    print(json.dumps(event), flush=True)


class Tables:
    """Stands where pymodbus looks for its datastore."""

    def __init__(self):
        self.cells = {name: [0] * CELLS for name in ("coil", "discrete", "holding", "input")}
        self.reads = 0
        self.refuse_writes = False

    def device_ids(self):
        return [0]

    async def async_getValues(self, _device_id, function, address, count=1):
        table = self.cells[TABLE_OF_FUNCTION[function]]
        if function in (1, 2, 3, 4):
            self.reads += 1
        if address + count > CELLS:
            return ExcCodes.ILLEGAL_ADDRESS
        cells = table[address : address + count]
        return [bool(cell) for cell in cells] if function in (1, 2, 5, 15) else cells

    async def async_setValues(self, _device_id, function, address, values):
        name = TABLE_OF_FUNCTION[function]
        if address + len(values) > CELLS:
            return ExcCodes.ILLEGAL_ADDRESS
        if self.refuse_writes:
            return ExcCodes.DEVICE_FAILURE
        values = [int(value) for value in values]
        self.cells[name][address : address + len(values)] = values
        say(at=time.monotonic(), write={"table": name, "address": address, "values": values})
        return None


class Connections:
    def __init__(self):
        self.open = 0
        self.total = 0

    def changed(self, connected):
        if connected:
            self.open += 1
            self.total += 1
            say(at=time.monotonic(), connected=self.total)
        else:
            self.open -= 1
            say(at=time.monotonic(), disconnected=True)


def obey(command, tables, connections):
    answer = {"answer": command["id"]}
    if "set" in command:
        wanted = command["set"]
        table, address, values = tables.cells[wanted["table"]], wanted["address"], wanted["values"]
        table[address : address + len(values)] = values
    elif "get" in command:
        wanted = command["get"]
        address = wanted["address"]
        answer["values"] = tables.cells[wanted["table"]][address : address + wanted["count"]]
    elif "refuse_writes" in command:
        tables.refuse_writes = command["refuse_writes"]
    elif "stats" in command:
        answer.update(open=connections.open, connections=connections.total, reads=tables.reads)
    say(**answer)


async def main(listen):
    host, port = listen.rsplit(":", 1)
    tables, connections = Tables(), Connections()
    # pymodbus insists on a device of its own kind at construction; ours replaces it right after.
    unused = SimDevice(0, simdata=[SimData(0, count=1, datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(unused, address=(host, int(port)), trace_connect=connections.changed)
    server.context = tables
    await server.serve_forever(background=True)
    say(listening=listen)

    # A thread, because asyncio cannot read every kind of stdin; the loop does the deed, so that
    # the tables have one owner.
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def listen_to_stdin():
        for line in sys.stdin:
            if line.strip():
                loop.call_soon_threadsafe(obey, json.loads(line), tables, connections)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen_to_stdin, daemon=True).start()
    await ended.wait()
    await server.shutdown()


asyncio.run(main(sys.argv[1]))
