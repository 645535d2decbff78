#!/usr/bin/python3
"""A component that holds what cannot be moved, or what a move has to look at twice.

usage: offender.py io_uring | direct-aio FILE | device PATH | read FILE | write FILE
                 | memory MIB | nothing

Prints "holding" once it does, and then sleeps.
"""

import ctypes
import mmap
import os
import sys
import time

IO_SETUP = 206
IO_URING_SETUP = 425

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number, *arguments):
    result = _libc.syscall(number, *arguments)
    if result < 0:
        sys.exit(f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result


def main():
    kind, *paths = sys.argv[1:] or sys.exit(__doc__)
    # Whatever is made here has to live as long as the process.
    held = []
    if kind == "io_uring":
        held.append(_call(IO_URING_SETUP, 4, ctypes.create_string_buffer(120)))
    elif kind == "direct-aio":
        context = ctypes.c_ulong(0)
        _call(IO_SETUP, 4, ctypes.byref(context))
        held += [context, os.open(paths[0], os.O_RDONLY | os.O_DIRECT)]
    elif kind in ("device", "read"):
        held.append(os.open(paths[0], os.O_RDONLY))
    elif kind == "write":
        held.append(os.open(paths[0], os.O_RDWR | os.O_CREAT, 0o644))
    elif kind == "memory":
        block = mmap.mmap(-1, int(paths[0]) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        held.append(block)
    elif kind != "nothing":
        sys.exit(__doc__)
    print("holding", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
