"""Shares of samples by the source file of this crate whose code ran, inlined code counted where it was written.

    python benches/profile.py perf.data target/release/deps/distillation_step-HASH
"""

import collections
import re
import subprocess
import sys


def output(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def sampled(data: str, program: str) -> tuple[int, collections.Counter, collections.Counter]:
    """Offset from run-time to file addresses, samples by address in the program, samples by other object."""
    start, inside, outside = None, collections.Counter(), collections.Counter()
    name = program.rsplit("/", 1)[-1]
    for line in output("perf", "script", "-i", data, "-G", "-F", "ip,sym,dso", "--show-mmap-events").splitlines():
        if mapped := re.search(r"MMAP2.*\[0x(\w+)\(0x\w+\) @ (?:0x)?(\w+) .*r-xp .*" + re.escape(name), line):
            start = start or tuple(int(number, 16) for number in mapped.groups())
        elif sample := re.match(r"\s*(\w+) .*\((.*)\)$", line):
            if name in sample[2]:
                inside[int(sample[1], 16)] += 1
            else:
                outside[sample[2].rsplit("/", 1)[-1]] += 1
    if start is None:
        sys.exit(f"{data} holds no samples of {name}")
    address, offset = start
    for fields in map(str.split, output("readelf", "-lW", program).splitlines()):
        if fields[:1] == ["LOAD"] and "E" in fields[6:-1]:
            begin, virtual, length = (int(fields[i], 16) for i in (1, 2, 4))
            # A mapping starts at the page in which its segment starts.
            if begin & ~0xFFF <= offset < begin + length:
                return virtual - begin + offset - address, inside, outside
    sys.exit(f"{program} has no segment at {offset:#x}")


def main() -> None:
    data, program = sys.argv[1:]
    shift, inside, shares = sampled(data, program)
    addresses = "\n".join(hex(address + shift) for address in inside)
    frames = re.split(r"^0x\w+\n", output("addr2line", "-a", "-i", "-e", program, text=addresses), flags=re.M)[1:]
    for count, chain in zip(inside.values(), frames, strict=True):
        own = [m[1] for m in re.finditer(r"^(?!.*/(?:registry|rustc|library)/).*?(src/[\w/]+\.rs):\d+", chain, flags=re.M)]
        shares[own[0] if own else "elsewhere in the program"] += count
    total = sum(shares.values())
    for name, count in shares.most_common(40):
        print(f"{100 * count / total:6.2f} {name}")


if __name__ == "__main__":
    main()
