"""So many live blocks of 64 bytes in 100,000 distinct stacks, 30 deep. For the cost of a dump and of its table.

The program is generated: five levels of ten functions, each of which calls, on ten lines, the ten functions of the next
level, so that each of the 10 ** 5 ways down is a stack of its own. Recursion above them makes the stacks deep.
"""

LEVELS, WIDTH, ABOVE = 5, 10, 23


def source():
    lines = []
    for level in range(LEVELS):
        for function in range(WIDTH if level else 1):
            lines.append("def f%d_%d(keep, blocks):" % (level, function))
            for below in range(WIDTH):
                called = "f%d_%d(keep, blocks)" % (level + 1, below)
                lines.append("    " + (called if level + 1 < LEVELS else "leaf(keep, blocks)"))
    return "\n".join(lines)


def leaf(keep, blocks):
    for i in range(blocks):
        keep.append((keep, i & 127, None))


def down(depth, top, keep, blocks):
    if depth == 0:
        return top(keep, blocks)
    return down(depth - 1, top, keep, blocks)


NAMES = {"leaf": leaf}
exec(compile(source(), "<manystacks>", "exec"), NAMES)


def prepare(size):
    return max(1, size // WIDTH ** LEVELS)


def run(blocks):
    keep = []
    down(ABOVE, NAMES["f0_0"], keep, blocks)
    return len(keep), keep
