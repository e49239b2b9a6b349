#!/usr/bin/env python3
"""Read one object by ranged GETs, several at once, and print how fast that went as one line of JSON.

The link at its best: nothing but HTTP, into memory. `--verify SHA256` compares the whole.

    python bench/read_ranges.py URL SIZE --part 8388608 --parallel 8
"""

import argparse
import hashlib
import http.client
import json
import queue
import sys
import threading
import time
from typing import Final
from urllib.parse import SplitResult, urlsplit

PART: Final = 8 << 20
TIMEOUT_S: Final = 120.0


def connect(url: SplitResult) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname or "", url.port, timeout=TIMEOUT_S)


def read_range(connection: http.client.HTTPConnection, url: SplitResult, start: int, into: memoryview) -> None:
    """Fill `into` with the bytes from `start` on. Raises `OSError` for any other answer."""
    headers = {"Range": f"bytes={start}-{start + len(into) - 1}"}
    connection.request("GET", f"{url.path}?{url.query}", headers=headers)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        raise OSError(f"{url.path}: {response.status} {response.reason}")
    done = 0
    while count := response.readinto(into[done:]):
        done += count
    if done != len(into):
        raise OSError(f"{url.path}: the answer has {done} bytes, {len(into)} were asked for")


def read_all(url: SplitResult, size: int, part: int, parallel: int, into: memoryview | None) -> float:
    """Read the whole object, and return the seconds. Without `into` each part is thrown away."""
    starts: queue.SimpleQueue[int] = queue.SimpleQueue()
    problems: list[Exception] = []
    for start in range(0, size, part):
        starts.put(start)

    def work() -> None:
        buffer = memoryview(bytearray(part if into is None else 0))
        connection = connect(url)
        try:
            while not problems:
                start = starts.get_nowait()
                end = min(start + part, size)
                read_range(connection, url, start, buffer[: end - start] if into is None else into[start:end])
        except queue.Empty:  # each range was taken by somebody: the end
            pass
        except (OSError, http.client.HTTPException) as error:
            problems.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(parallel)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise OSError(str(problems[0]))
    return time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("size", type=int)
    parser.add_argument("--part", type=int, default=PART, help="bytes of one GET (default 8 MiB)")
    parser.add_argument("--parallel", type=int, default=8, help="GETs at once (default 8)")
    parser.add_argument("--verify", metavar="SHA256", help="compare the checksum of the whole")
    arguments = parser.parse_args()
    into = memoryview(bytearray(arguments.size)) if arguments.verify else None
    try:
        seconds = read_all(urlsplit(arguments.url), arguments.size, arguments.part, arguments.parallel, into)
        if into is not None and hashlib.sha256(into).hexdigest() != arguments.verify:
            raise OSError(f"what was read of {urlsplit(arguments.url).path} has another checksum")
    except OSError as error:
        print(f"read_ranges: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"size": arguments.size, "seconds": seconds, "bytes_per_s": arguments.size / seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
