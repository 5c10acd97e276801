#!/usr/bin/env python3
"""What a client of PROTOCOL.md can do, each step checked: the exit code is 0 only if all is as documented.

    python3 demo.py                            the nodes of ./meridian-dev/cluster.json, else 127.0.0.1:7400
    python3 demo.py 127.0.0.1:7400 127.0.0.1:7403      one node of each datacenter
"""
import json
import os
import struct
import sys
import threading
import time

from meridian import Lost, Node, Refused, Session, mutation, token_merge, token_parse, token_text, xxh3_64

FAILED = []
RUN = "py/" + os.urandom(4).hex() + "/"


def check(what, got, want=True):
    """Prints one fact, and remembers it if it is not as documented."""
    good = got == want
    print(f"  {'ok  ' if good else 'FAIL'}  {what}" + ("" if good else f": {got!r}, not {want!r}"), flush=True)
    if not good:
        FAILED.append(what)


def refused(what, code, act, **particulars):
    """Checks that `act` is refused with this code, and returns the error's body."""
    try:
        got, body = act(), {}
    except Refused as error:
        got, body = error.code, error.body
    check(f"{what} is {code}", got, code)
    for name, value in particulars.items():
        check(f"    its {name}", body.get(name), value)
    return body


def closed(what, code, act, address):
    """Checks that the node closes a fresh connection with this code when `act` is done to it."""
    node = Node(address)
    act(node)
    deadline = time.monotonic() + 20
    while node.lost is None and time.monotonic() < deadline:
        time.sleep(0.01)
    check(f"{what} closes with {code}", node.lost and node.lost.code, code)


def wire(address):
    token = bytes.fromhex("014d518cd92b71c09e00000000000000079f3c21aa000000000000012c99785ff3")
    check("the documented token has its checksum and its text", (xxh3_64(token[:-4]) & 0xFFFFFFFF, token_text(token)),
          (0x99785FF3, "AU1RjNkrccCeAAAAAAAAAAefPCGqAAAAAAAAASyZeF_z"))
    node = Node(address, fragment=1000)
    print(f"        {node.dc}/{node.hello['node']} speaks version {node.hello['version']}, limits {node.limits}")
    check("it speaks version 1", node.hello["version"], 1)
    long = os.urandom(100_000)
    written = node.send("write", {"key": RUN + "long", "mutation": mutation("register", "set", value=long)})
    written.result(10)
    check("a value of 100,000 bytes goes out in 100 fragments and comes back",
          node.call("read", {"key": RUN + "long", "session": written.token})["value"], long)
    check("it is ready", node.call("status", {})["ready"])
    node.close()
    closed("text", 4415, lambda n: n._frame(0x81, b"hello"), address)
    closed("what is not MessagePack", 4400, lambda n: n._frame(0x82, b"\xc1"), address)
    closed("a second hello", 4402, lambda n: n.send("hello", {"client": "demo", "versions": [1]}), address)


def types(session):
    def reads(key, type, value, **more):
        got = session.read(RUN + key)
        got.pop("version")
        check(f"{type} reads {value!r}", got, {"type": type, "value": value, **more})

    value = {"n": None, "list": [1, -2, 1.5, 1.0, True], "text": "\u00fc", "raw": b"\x00\xff"}
    session.write(RUN + "register", "register", "set", value=value)
    reads("register", "register", value)
    session.write(RUN + "mv", "mvregister", "set", value="a")
    reads("mv", "mvregister", ["a"])
    added = session.write(RUN + "counter", "counter", "add", by=-7)
    check("adding answers the counter's new value", added["result"], -7)
    reads("counter", "counter", -7)
    for flag in ("flag", "dwflag"):
        session.write(RUN + flag, flag, "enable")
        reads(flag, flag, True)
    for name in ("set", "rwset"):
        session.write(RUN + name, name, "add_all", elements=["pear", "apple", "plum", "fig"])
        session.write(RUN + name, name, "remove", element="plum")
        reads(name, name, ["apple", "fig", "pear"], size=3)
        page = session.read(RUN + name, limit=2)
        rest = session.read(RUN + name, limit=2, cursor=page["cursor"])
        check("    in two pages", (page["value"] + rest["value"], "cursor" in rest), (["apple", "fig", "pear"], False))
        check("    asked for one element", session.read(RUN + name, element="fig")["present"])
    session.write(RUN + "map", "map", "update", field="name", do=mutation("register", "set", value="Ann"))
    inner = mutation("map", "update", field="visits", do=mutation("counter", "add", by=2))
    session.write(RUN + "map", "map", "update", field="more", do=inner)
    reads("map", "map", {"more": {"type": "map", "value": {"visits": {"type": "counter", "value": 2}}},
                         "name": {"type": "register", "value": "Ann"}}, size=2)
    session.delete(RUN + "register")
    check("a deleted key reads as absent", session.read(RUN + "register"), None)
    keys = ["counter", "dwflag", "flag", "long", "map", "mv", "rwset", "set"]
    listed, after = [], {}
    while after is not None:
        page = session.list(prefix=RUN, limit=3, **after)
        listed += [entry["key"] for entry in page["keys"]]
        after = {"after": page["cursor"]} if "cursor" in page else None
    check("all keys are listed, in order, by pages", listed, [RUN + key for key in keys])


def sessions(here, there):
    for n in range(5):
        here.write(RUN + "trip", "counter", "add", by=1)
        visitor = Session(*there, token=here.token)
        began = time.monotonic()
        value = visitor.read(RUN + "trip")["value"]
        took = 1000 * (time.monotonic() - began)
        print(f"        written in {here.node.dc}, read in {visitor.node.dc} {took:.0f} ms later")
        check("a session reads its own write in another datacenter", value, n + 1)
        both = token_merge(here.token, visitor.token)
        check("    and the token there covers the token from here", both, visitor.token)
        visitor.close()
    futures = [here.start("write", {"key": RUN + "many", "mutation": mutation("counter", "add", by=1),
                                    "request_id": here.request_id()}) for _ in range(500)]
    check("500 writes at once all count", sorted(f.result(60)["result"] for f in futures), list(range(1, 501)))
    merged = here.token
    for future in futures:
        merged = token_merge(merged, future.token)
    check("    and the session's token covers all of theirs", here.token, merged)
    far = here.write(RUN + "many", "counter", "add", by=1, terms={"commit": "all", "wait_ms": 20000})
    check("a write that all datacenters hold", far["result"], 501)


def repeats(session, sibling):
    identity = session.request_id()
    first = session.write(RUN + "once", "counter", "add", by=5, request_id=identity)
    again = session.write(RUN + "once", "counter", "add", by=5, request_id=identity)
    other = Session(sibling, token=session.token)
    third = other.write(RUN + "once", "counter", "add", by=5, request_id=identity)
    check("a write repeated twice, once at another node, gets the first answer", [again, third], [first, first])
    check("    and counts once", session.read(RUN + "once")["value"], 5)
    refused("the same id with another write", "request_id_reused",
            lambda: session.write(RUN + "once", "counter", "add", by=6, request_id=identity))
    identity = session.request_id()
    node = session.node
    lost = session.start("write", {"key": RUN + "once", "request_id": identity,
                                   "mutation": mutation("counter", "add", by=1)}, node)
    node.close()
    try:
        lost.result(10)
    except Lost:
        pass
    session.write(RUN + "once", "counter", "add", by=1, request_id=identity)
    check("a write whose answer was lost is repeated on a new connection and counts once",
          session.read(RUN + "once")["value"], 6)
    other.close()


def transactions(session, rival):
    session.txn([{"key": RUN + "stock", **mutation("counter", "add", by=3)},
                 {"key": RUN + "orders", **mutation("set", "add", element="o-1")}],
                [{"key": RUN + "stock", "absent": True}])
    runs = []

    def body(transaction):
        stock = transaction.read(RUN + "stock")["value"]
        runs.append(stock)
        if len(runs) == 1:
            rival.write(RUN + "stock", "counter", "add", by=10)
            session.seen(rival.token)
        transaction.write(RUN + "stock", "counter", "add", by=-1)
        transaction.write(RUN + "sold", "counter", "add", by=1)
        check("a transaction reads its own write", transaction.read(RUN + "stock")["value"], stock - 1)
        return stock

    last = session.transaction(body)
    check("a transaction that conflicts runs again, on what the rival left", (last, runs), (13, [3, 13]))
    check("    and counts once", (session.read(RUN + "stock")["value"], session.read(RUN + "sold")["value"]), (12, 1))
    node = session.node
    number = session.start("begin", {}).result(10)["txn"]
    session.start("read", {"txn": number, "key": RUN + "stock",
                           "ops": [{"key": RUN + "stock", **mutation("counter", "add", by=1)}]}).result(10)
    check("an aborted one was there", node.call("abort", {"txn": number}), {"aborted": True})
    check("    and left no trace", session.read(RUN + "stock")["value"], 12)
    refused("its number afterwards", "conflict", lambda: node.call("commit", {"txn": number}), reason="expired")


def watches(here, there):
    prefix = RUN + "watched/"
    begin = here.list(prefix=prefix)["watch_cursor"]
    for n in range(6):
        here.write(f"{prefix}{n % 2}", "counter", "add", by=n + 1)
    watch = here.watch(begin, prefix=prefix, values=True)
    seen = [next(watch) for _ in range(3)]
    print(f"        event: {seen[0]}")
    watch.stop()
    visitor = Session(*there, token=here.token, wait_ms=20000)
    resumed = visitor.watch(watch.cursor, prefix=prefix)
    seen += [next(resumed) for _ in range(3)]
    visitor.write(prefix + "x", "flag", "enable")
    seen.append(next(resumed))
    check("a watch sees each change once, in order, and goes on in another datacenter",
          [[c["ops"] for c in event["changes"]] for event in seen],
          [[[{"op": "add", "by": n + 1}]] for n in range(6)] + [[[{"op": "enable"}]]])
    check("    of txns with different names", len({(event["dc"], event["seq"]) for event in seen}), 7)
    check("    with values where they were asked for", "value" in seen[0]["changes"][0], True)
    late = visitor.watch(prefix=prefix)
    timer = threading.Timer(0.3, lambda: here.write(prefix + "late", "flag", "enable"))
    timer.start()
    check("a watch from now sees what comes from elsewhere", next(late)["changes"][0]["key"], prefix + "late")
    late.stop()
    resumed._node.close()
    here.write(prefix + "after", "flag", "enable")
    while (event := next(resumed))["changes"][0]["key"] == prefix + "late":
        pass
    check("a watch whose connection is lost resumes by itself", event["changes"][0]["key"], prefix + "after")
    resumed.stop()
    check("    and ends when it is stopped", list(resumed), [])
    visitor.close()


def errors(here, there):
    node = here.node
    read = lambda **args: node.call("read", {"key": RUN + "counter", **args})
    refused("a counter's key taken for a flag", "wrong_type", lambda: here.write(RUN + "counter", "flag", "enable"))
    refused("a condition that does not hold", "precondition_failed", lambda: here.txn(
        [{"key": RUN + "x", **mutation("flag", "enable")}],
        [{"key": RUN + "set", "contains": "fig"}, {"key": RUN + "counter", "value": 1}]), failed=[1])
    check("    which changed nothing", here.read(RUN + "x"), None)
    refused("an argument that means nothing", "unknown_field", lambda: read(colour="red"))
    refused("a verb that means nothing", "unknown_op", lambda: node.call("sing", {}))
    refused("a type that is none", "unknown_type", lambda: here.write(RUN + "x", "heap", "add"))
    refused("an op that is none", "unknown_op", lambda: here.write(RUN + "x", "counter", "multiply"))
    refused("an op without its field", "bad_value", lambda: here.write(RUN + "x", "counter", "add"))
    refused("a key of 1025 bytes", "bad_key", lambda: read(key="k" * 1025))
    refused("a level that is none", "bad_header", lambda: read(consistency="strong"))
    refused("an absent key", "not_found", lambda: read(key=RUN + "nothing"))
    refused("a counter beyond 64 bits", "overflow",
            lambda: [here.write(RUN + "big", "counter", "add", by=2**63 - 1) for _ in range(2)])
    refused("a garbled token", "bad_token", lambda: read(session=here.token[:-1] + bytes([here.token[-1] ^ 1])))
    body = here.token[:1] + bytes([here.token[1] ^ 1]) + here.token[2:-4]
    refused("another cluster's token", "foreign_token",
            lambda: read(session=body + struct.pack(">I", xxh3_64(body) & 0xFFFFFFFF)))
    refused("a cursor taken for a token", "bad_token", lambda: read(session=token_parse(here.list()["watch_cursor"])))
    refused("a watch from what is no cursor", "bad_header", lambda: node.call("watch", {"from": "nowhere"}))
    if there:
        visitor = Session(*there, token=here.token)
        for _ in range(20):
            here.write(RUN + "ahead", "counter", "add", by=1)
            try:
                visitor.start("read", {"key": RUN + "ahead", "session": here.token, "wait_ms": 0}).result(10)
            except Refused as error:
                lag = error
                break
        else:
            lag = Refused({"code": "never refused", "message": ""})
        check("another datacenter without time to wait is not_caught_up", lag.code, "not_caught_up")
        check("    and says what it lacks", lag.body.get("origin"), node.dc)
        refused("a write that no other datacenter can confirm in time", "commit_timeout",
                lambda: here.write(RUN + "far", "counter", "add", by=1, repeat=False,
                                   terms={"commit": "all", "wait_ms": 0}))
        check("    though it stays", (here.read(RUN + "far") or {}).get("value"), 1)
        visitor.close()


def main():
    datacenters = [[address] for address in sys.argv[1:]]
    if not datacenters:
        try:
            with open("meridian-dev/cluster.json", encoding="utf-8") as file:
                datacenters = [[node["client"] for node in dc["nodes"]] for dc in json.load(file)["dcs"]]
        except FileNotFoundError:
            datacenters = [["127.0.0.1:7400"]]
    home, away = datacenters[0], datacenters[-1] if len(datacenters) > 1 else None
    session, rival = Session(*home), Session(home[-1])
    steps = [("The wire", wire, home[0]), ("Types", types, session),
             ("A session in two datacenters", sessions, session, away), ("Repeating", repeats, session, home[-1]),
             ("Transactions", transactions, session, rival), ("Watching", watches, session, away),
             ("Errors", errors, session, away)]
    for title, step, *args in steps:
        print(title)
        if args[-1] is None and step is not errors:
            print("  skipped: it takes nodes of two datacenters")
            continue
        try:
            step(*args)
        except Exception as error:
            check(f"{title}: no surprise", f"{type(error).__name__}: {error}", None)
    session.close()
    rival.close()
    print(f"{len(FAILED)} of the above are not as documented" if FAILED else "all as documented")
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
