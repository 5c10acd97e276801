"""A client of Meridian's native protocol (PROTOCOL.md) in Python, with nothing but the standard library.

    session = Session("127.0.0.1:7400")
    session.write("visits", "counter", "add", by=5)
    session.read("visits")["value"]

From below: MessagePack; tokens and their merging; `Node`, one WebSocket with many requests in flight; `Session`, which
carries a token from node to node and repeats what may be repeated; `Watch` and `Transaction` on top of it.
"""
import base64
import concurrent.futures
import hashlib
import os
import queue
import random
import socket
import struct
import threading
import time

# MessagePack: nil, booleans, integers, floats, strings, binary, arrays and maps.


def pack(value):
    """One value as MessagePack; `bytes` are binary, `str` are strings."""
    out = bytearray()
    _pack(value, out)
    return bytes(out)


def _pack(value, out):
    if value is None or isinstance(value, bool):
        out.append({None: 0xC0, False: 0xC2, True: 0xC3}[value])
    elif isinstance(value, int):
        if -32 <= value < 128:
            out += struct.pack("b" if value < 0 else "B", value)
        else:
            out += struct.pack(">Bq", 0xD3, value)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 0xCB, value)
    elif isinstance(value, str):
        text = value.encode()
        out += _head(len(text), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + text
    elif isinstance(value, (bytes, bytearray)):
        out += _head(len(value), None, 0, (0xC4, 0xC5, 0xC6)) + value
    elif isinstance(value, (list, tuple)):
        out += _head(len(value), 0x90, 16, (None, 0xDC, 0xDD))
        for item in value:
            _pack(item, out)
    elif isinstance(value, dict):
        out += _head(len(value), 0x80, 16, (None, 0xDE, 0xDF))
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError("the keys of a map are strings")
            _pack(key, out)
            _pack(item, out)
    else:
        raise TypeError(f"{type(value).__name__} has no form in MessagePack")


def _head(size, short, below, codes):
    """The head of something with a length: within its first byte if it is short, else a code and 1, 2 or 4 bytes."""
    if size < below:
        return bytes([short | size])
    for code, form, end in zip(codes, (">BB", ">BH", ">BI"), (1 << 8, 1 << 16, 1 << 32)):
        if code is not None and size < end:
            return struct.pack(form, code, size)
    raise ValueError("too long for MessagePack")


def unpack(data):
    """The one value that `data` is."""
    value, end = _unpack(data, 0)
    if end != len(data):
        raise ValueError("bytes after the value")
    return value


_FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = dict(zip((0xCA, 0xCB, *range(0xCC, 0xD4)), (">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q")))
_LENGTHS = {0xC4: (">B", "bin"), 0xC5: (">H", "bin"), 0xC6: (">I", "bin"), 0xD9: (">B", "str"), 0xDA: (">H", "str"),
            0xDB: (">I", "str"), 0xDC: (">H", "array"), 0xDD: (">I", "array"), 0xDE: (">H", "map"), 0xDF: (">I", "map")}


def _unpack(data, at):
    code, at = data[at], at + 1
    if code < 0x80 or code >= 0xE0:
        return (code if code < 0x80 else code - 256), at
    if code in _FIXED:
        return _FIXED[code], at
    if code in _NUMBERS:
        form = _NUMBERS[code]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if code < 0xC0:
        size, kind = (code & 15, "map" if code < 0x90 else "array") if code < 0xA0 else (code & 31, "str")
    elif code in _LENGTHS:
        form, kind = _LENGTHS[code]
        size, at = struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    else:
        raise ValueError(f"MessagePack of a kind that is not used: {code:#x}")
    if kind in ("bin", "str"):
        raw = bytes(data[at:at + size])
        if len(raw) < size:
            raise ValueError("the data ends within a value")
        return (raw if kind == "bin" else raw.decode()), at + size
    items = []
    for _ in range(size * (2 if kind == "map" else 1)):
        item, at = _unpack(data, at)
        items.append(item)
    return (items if kind == "array" else dict(zip(items[::2], items[1::2]))), at


# Tokens. One that was merged needs a checksum of its own: the low half of XXH3-64, seed 0.

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")
_P32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_P64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
_M64 = (1 << 64) - 1


def _u64(data, at):
    return int.from_bytes(data[at:at + 8], "little")


def _fold(a, b):
    product = a * b
    return (product & _M64) ^ (product >> 64)


def _mix(data, at, secret):
    return _fold(_u64(data, at) ^ _u64(_SECRET, secret), _u64(data, at + 8) ^ _u64(_SECRET, secret + 8))


def _avalanche(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & _M64
    return h ^ h >> 32


def xxh3_64(data):
    """XXH3-64 with seed 0, of the lengths that tokens have: 5 bytes, or 17 and more."""
    size = len(data)
    if 4 <= size <= 8:
        first, last = (int.from_bytes(part, "little") for part in (data[:4], data[-4:]))
        h = (last + (first << 32)) ^ _u64(_SECRET, 8) ^ _u64(_SECRET, 16)
        h ^= (h << 49 | h >> 15) & _M64 ^ (h << 24 | h >> 40) & _M64
        h = h * 0x9FB21C651E98DF25 & _M64
        h ^= (h >> 35) + size
        h = h * 0x9FB21C651E98DF25 & _M64
        return h ^ h >> 28
    if size <= 16:
        raise ValueError("no token is that long")
    h = size * _P64[0]
    if size <= 128:
        for i in range((size - 1) // 32 + 1):
            h += _mix(data, 16 * i, 32 * i) + _mix(data, size - 16 * (i + 1), 32 * i + 16)
        return _avalanche(h & _M64)
    if size <= 240:
        h = _avalanche((h + sum(_mix(data, 16 * i, 16 * i) for i in range(8))) & _M64)
        h += sum(_mix(data, 16 * i, 16 * (i - 8) + 3) for i in range(8, size // 16))
        return _avalanche((h + _mix(data, size - 16, 136 - 17)) & _M64)
    acc = [_P32[2], *_P64[:4], _P32[1], _P64[4], _P32[0]]

    def stripe(at, secret):
        for i in range(8):
            value = _u64(data, at + 8 * i)
            key = value ^ _u64(_SECRET, secret + 8 * i)
            acc[i ^ 1] = acc[i ^ 1] + value & _M64
            acc[i] = acc[i] + (key & 0xFFFFFFFF) * (key >> 32) & _M64

    for n in range((size - 1) // 64):
        stripe(64 * n, n % 16 * 8)
        if n % 16 == 15:
            acc = [((a ^ a >> 47) ^ _u64(_SECRET, 128 + 8 * i)) * _P32[0] & _M64 for i, a in enumerate(acc)]
    stripe(size - 64, 192 - 64 - 7)
    pairs = [a ^ _u64(_SECRET, 11 + 8 * i) for i, a in enumerate(acc)]
    return _avalanche((h + sum(_fold(pairs[i], pairs[i + 1]) for i in range(0, 8, 2))) & _M64)


def token_merge(a, b):
    """The token that demands what both do (either may be None): for each origin the higher seq."""
    if not a or not b or a == b:
        return a or b
    if a[:5] != b[:5]:
        raise ValueError("tokens of different clusters")
    seqs = {}
    for token in (a, b):
        for origin, seq in struct.iter_unpack(">IQ", token[5:-4]):
            seqs[origin] = max(seq, seqs.get(origin, 0))
    body = a[:5] + b"".join(struct.pack(">IQ", *entry) for entry in sorted(seqs.items()))
    return body + struct.pack(">I", xxh3_64(body) & 0xFFFFFFFF)


def token_text(token):
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def token_parse(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# One connection.


class Lost(Exception):
    """The connection is gone; what was in flight has an unknown outcome. `code` is the WebSocket's, 1006 for none."""

    def __init__(self, code=1006, reason=""):
        super().__init__(f"the connection ended: {code} {reason}".rstrip())
        self.code = code


class Refused(Exception):
    """A node's error. `code` is for programs, `body` has the particulars."""

    def __init__(self, body):
        super().__init__(f"{body['code']}: {body['message']}")
        self.code, self.body = body["code"], body


# Errors to repeat, a write with the same request id: those of status 429 and 5xx.
REPEAT = {"overloaded", "not_caught_up", "no_quorum", "no_leader", "clock_unsafe", "storage_full", "shutting_down",
          "internal", "commit_timeout", "outcome_unknown"}
# Of these, the ones that say that nothing changed: a transaction is still open after them.
UNCHANGED = REPEAT - {"internal", "commit_timeout", "outcome_unknown"}


# Closings after which the same would only happen again.
HOPELESS = {1002, 4400, 4401, 4402, 4403, 4413, 4415}


class Node:
    """A connection to one node. Any number of threads may `send`; one thread of its own reads."""

    def __init__(self, address, name="python", fragment=1 << 20, timeout=10.0):
        host, port = address.rsplit(":", 1)
        self.address, self.fragment, self.lost = address, fragment, None
        self._ids, self._waiting, self._lock = 0, {}, threading.Lock()
        self._sending, self._writing = threading.Lock(), threading.Lock()
        self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        try:
            self._handshake(address)
            self._socket.settimeout(None)
        except OSError as error:
            raise Lost(1006, str(error)) from error
        self._room = threading.BoundedSemaphore(1)
        threading.Thread(target=self._read, daemon=True).start()
        self.hello = self.call("hello", {"client": name, "versions": [1]}, timeout)
        self.limits, self.dc = self.hello["limits"], self.hello["dc"]
        # A node reads no further at its bound; and it keeps 256 answers of a client, so fewer may be in flight.
        self._room = threading.BoundedSemaphore(min(self.limits["in_flight_max"], 255))

    def send(self, verb, args, seen=None, events=None):
        """Sends a request and returns the future of its answer's body. `seen(token)` is called with the answer's token
        before the future is done; `events(body)`, for a watch, in the order of its events. Both must not block."""
        room, future = self._room, concurrent.futures.Future()
        if events is None:
            room.acquire()
            future.add_done_callback(lambda _: room.release())
        with self._lock:
            self._ids += 1
            future.id = self._ids
            lost = self.lost
            if lost is None:
                self._waiting[future.id] = (future, seen, events)
        if lost is not None:
            future.set_exception(lost)
            return future
        try:
            self._message(pack([future.id, verb, args]))
        except OSError as error:
            self._end(Lost(1006, str(error)))
        return future

    def call(self, verb, args, timeout=60.0):
        """Sends a request and waits for its answer."""
        return self.send(verb, args).result(timeout)

    def close(self):
        """Says goodbye: whatever is in flight is given up."""
        try:
            self._frame(0x88, struct.pack(">H", 1000))
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._end(Lost(1000, "closed here"))

    def _handshake(self, address):
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ("GET /v1/session HTTP/1.1", f"Host: {address}", "Upgrade: websocket", "Connection: Upgrade",
                 "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", "")
        self._socket.sendall("\r\n".join(lines).encode())
        status, headers = self._stream.readline().decode().strip(), {}
        while line := self._stream.readline().decode().strip():
            field, _, value = line.partition(":")
            headers[field.lower()] = value.strip()
        proof = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        if status.split()[1:2] != ["101"] or headers.get("sec-websocket-accept") != base64.b64encode(proof).decode():
            raise OSError(f"no WebSocket: {status}")

    def _message(self, data):
        """One binary message, in fragments if it is long; control frames may go between them."""
        with self._sending:
            for at in range(0, len(data) or 1, self.fragment):
                last = at + self.fragment >= len(data)
                self._frame((0x80 if last else 0) | (2 if at == 0 else 0), data[at:at + self.fragment])

    def _frame(self, head, data):
        size, mask = len(data), os.urandom(4)
        length = (struct.pack("B", 0x80 | size) if size < 126 else
                  struct.pack(">BH", 0xFE, size) if size < 1 << 16 else struct.pack(">BQ", 0xFF, size))
        pad = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
        with self._writing:
            self._socket.sendall(bytes([head]) + length + mask + masked)

    def _exactly(self, size):
        data = self._stream.read(size)
        if len(data) < size:
            raise Lost()
        return data

    def _read(self):
        """The reader thread: answers pings, hands answers and events to those who wait."""
        message = bytearray()
        try:
            while True:
                head, size = self._exactly(2)
                if size >= 126:
                    size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
                data, kind = self._exactly(size), head & 15
                if kind == 9:
                    self._frame(0x8A, data)
                elif kind == 8:
                    code = int.from_bytes(data[:2], "big") if data else 1005
                    self._frame(0x88, data[:2])
                    raise Lost(code, data[2:].decode(errors="replace"))
                elif kind in (0, 2):
                    message += data
                    if head & 0x80:
                        self._take(*unpack(message)[:5])
                        message = bytearray()
        except Lost as lost:
            self._end(lost)
        except Exception as error:
            self._end(Lost(1006, repr(error)))

    def _take(self, number, kind, body, token=None, staleness=()):
        with self._lock:
            future, seen, events = self._waiting[number] if kind == "event" else self._waiting.pop(number)
        if kind == "event":
            events(body)
            return
        if token and seen:
            seen(token)
        future.token, future.staleness = token, staleness
        if kind == "ok":
            future.set_result(body)
        else:
            future.set_exception(Refused(body))

    def _end(self, lost):
        with self._lock:
            self.lost, waiting, self._waiting = self.lost or lost, self._waiting, {}
        for future, _, _ in waiting.values():
            future.set_exception(self.lost)
        self._socket.close()


# Sessions.


def mutation(type, op, /, **fields):
    """A mutation without its key: what `Session.write` takes, `do` of a map's update, and with `key` an op of a txn."""
    return {"type": type, "op": op, **fields} if type else {"op": op, **fields}


class Session:
    """What one actor reads and writes, in one datacenter after the other: it carries the token and never goes back.

    `addresses` are nodes of one datacenter; a lost connection is replaced by one to the next of them. `move` goes to
    another datacenter. `terms` stand in every request that takes them: `consistency`, `commit`, `wait_ms`.
    """

    def __init__(self, *addresses, token=None, space="default", attempts=8, **terms):
        self.addresses, self.token, self.space, self.attempts, self.terms = addresses, token, space, attempts, terms
        self._client, self._number, self._lock, self._node = os.urandom(16), 0, threading.Lock(), None

    @property
    def node(self):
        """The connection; a new one if there was none or it is lost."""
        with self._lock:
            if self._node is None or self._node.lost:
                self._node = Node(self.addresses[0])
            return self._node

    def move(self, *addresses):
        """Goes on at other nodes, of any datacenter, with the same token. Repeat no write across datacenters."""
        self.close()
        self.addresses = addresses

    def close(self):
        with self._lock:
            node, self._node = self._node, None
        if node:
            node.close()

    def seen(self, token):
        """Makes the session depend on a token, of an answer or of somebody else."""
        with self._lock:
            self.token = token_merge(self.token, token)

    def request_id(self):
        """An id for one write, which makes its repetition in the same datacenter exact."""
        with self._lock:
            self._number += 1
            return [self._client, self._number]

    def start(self, verb, args, node=None, events=None):
        """Sends a request with the session's token and returns its future: so many can be in flight."""
        terms = {"session": self.token} if self.token else {}
        return (node or self.node).send(verb, {**terms, **args}, self.seen, events)

    def call(self, verb, args, repeat=True):
        """A request and its answer; what may be repeated is, unchanged but for a newer token."""
        for attempt in range(self.attempts):
            pause = random.uniform(0.05, 0.1) * 2 ** min(attempt, 5)
            try:
                return self.start(verb, args).result(60)
            except (Lost, OSError) as error:
                if getattr(error, "code", 0) in HOPELESS:
                    raise
                self.addresses = (*self.addresses[1:], self.addresses[0])
                failed = error
            except Refused as error:
                if error.code not in REPEAT:
                    raise
                pause, failed = error.body.get("retry_after_ms", 1000 * pause) / 1000, error
            if not repeat:
                break
            time.sleep(pause)
        raise failed

    def _args(self, names, given):
        """The arguments of a request: the session's space and its terms of these names, then those given."""
        return {"space": self.space, **{n: v for n, v in self.terms.items() if n in names}, **given}

    def read(self, key, repeat=True, **args):
        """A key: `type`, `value`, `version`, of collections `size` and perhaps `cursor`. None if it has no value."""
        try:
            return self.call("read", self._args(("consistency", "wait_ms"), {"key": key, **args}), repeat)
        except Refused as error:
            if error.code == "not_found":
                return None
            raise

    def list(self, repeat=True, **args):
        """A page of keys: `keys`, perhaps `cursor` (the next page's `after`), `watch_cursor`."""
        return self.call("list", self._args(("consistency", "wait_ms"), args), repeat)

    def write(self, key, type, op, /, request_id=None, repeat=True, terms=None, **fields):
        """One mutation, such as `write("cart", "set", "add", element="x")`: `version` and `result`."""
        args = {"key": key, "mutation": mutation(type, op, **fields), **(terms or {})}
        args = self._args(("commit", "wait_ms"), args)
        return self.call("write", {**args, "request_id": request_id or self.request_id()}, repeat)

    def delete(self, key):
        """Deletes a key, whatever its type."""
        return self.write(key, None, "delete")

    def txn(self, ops, conditions=(), request_id=None, repeat=True, terms=None):
        """All operations or none, if all conditions hold."""
        args = self._args(("commit", "wait_ms"), {"if": list(conditions), "ops": list(ops), **(terms or {})})
        return self.call("txn", {**args, "request_id": request_id or self.request_id()}, repeat)

    def transaction(self, body, isolation="serializable"):
        """Runs `body(transaction)` and commits; begins again on a conflict. Returns what `body` returned."""
        for attempt in range(self.attempts):
            transaction = None
            try:
                transaction = Transaction(self, isolation)
                result = body(transaction)
                transaction.commit()
                return result
            except (Refused, Lost, OSError) as error:
                if isinstance(error, Refused):
                    if error.code != "conflict" and error.code not in UNCHANGED:
                        raise
                elif transaction and transaction.committing:
                    raise
                failed = error
                time.sleep(random.uniform(0.01, 0.02) * 2 ** min(attempt, 6))
            finally:
                if transaction:
                    transaction.abort()
        raise failed

    def watch(self, cursor=None, **args):
        """The changes of a `key`, of a `prefix` or of the whole space, from a cursor or from now."""
        return Watch(self, cursor, args)


class Transaction:
    """An interactive transaction: reads of one snapshot, and writes that are sent with the next read or the commit."""

    def __init__(self, session, isolation="serializable"):
        self.session, self.node, self.ops, self.committing, self.open = session, session.node, [], False, True
        args = {n: v for n, v in session.terms.items() if n in ("consistency", "wait_ms")}
        self.id = session.start("begin", {"isolation": isolation, **args}, self.node).result(60)["txn"]

    def _read(self, verb, args):
        args = {"txn": self.id, "space": self.session.space, "ops": self.ops, **args}
        body = self.session.start(verb, args, self.node).result(60)
        self.ops = []
        return body

    def read(self, key, **args):
        """A key as the snapshot and the transaction's own writes have it; None if it has no value."""
        try:
            return self._read("read", {"key": key, **args})
        except Refused as error:
            if error.code != "not_found":
                raise
            self.ops = []
            return None

    def list(self, **args):
        return self._read("list", args)

    def write(self, key, type, op, /, **fields):
        self.ops.append({"key": key, **mutation(type, op, **fields)})

    def commit(self):
        """Commits. A lost answer is asked for again with the same request id, on any connection to the datacenter."""
        args = {"txn": self.id, "request_id": self.session.request_id(), "ops": self.ops}
        args = self.session._args(("commit", "wait_ms"), args)
        self.committing, self.open = True, False
        try:
            return self.session.call("commit", args)
        except Refused as error:
            self.open = error.code in UNCHANGED
            raise

    def abort(self):
        """Ends it without a trace, if it is open."""
        if self.open and not self.node.lost:
            self.open = False
            self.session.start("abort", {"txn": self.id}, self.node)


class Watch:
    """An iterator of txns. `cursor` is where it stands: give it to `Session.watch`, at any node of any datacenter.

    It resumes by itself after a lost connection. The session depends on each event once it was given out.
    Events are kept here until they are taken.
    """

    def __init__(self, session, cursor=None, args=()):
        self.session, self.cursor, self.args, self.stopped = session, cursor, dict(args), False
        self._events, self._future = queue.SimpleQueue(), None
        self._begin()

    def _begin(self):
        events = self._events = queue.SimpleQueue()
        begin = {"from": self.cursor} if self.cursor else {}
        args = self.session._args(("consistency", "wait_ms"), {**self.args, **begin})
        self._node = self.session.node
        self._future = self.session.start("watch", args, self._node, events.put)
        self._future.add_done_callback(lambda _: events.put(None))

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            event = self._events.get()
            if event is not None:
                self.cursor = event["cursor"]
                self.session.seen(token_parse(event["session"]))
                if "changes" in event:
                    return event
                continue
            failed = self._future.exception()
            if failed is None or self.stopped:
                raise StopIteration
            if isinstance(failed, Refused):
                if failed.code not in REPEAT:
                    raise failed
                self.cursor = failed.body.get("cursor", self.cursor)
            time.sleep(random.uniform(0.1, 0.2))
            self._begin()

    def stop(self):
        """Ends the watch; what came before is still iterated over."""
        self.stopped = True
        if not self._node.lost:
            self._node.call("stop", {"watch": self._future.id})
