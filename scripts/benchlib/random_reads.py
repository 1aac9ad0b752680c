"""Reads 100 times 4 KiB of a file, anywhere in it, the same places each time. Prints the seconds it took."""

import os
import random
import sys
import time

BLOCK = 4096
places = random.Random(1)
file = os.open(sys.argv[1], os.O_RDONLY)
blocks = os.fstat(file).st_size // BLOCK
begun = time.monotonic()
for _ in range(100):
    if len(os.pread(file, BLOCK, places.randrange(blocks) * BLOCK)) != BLOCK:
        sys.exit("a short read")
print(time.monotonic() - begun)
