"""Syntax trees of the standard library: parse, walk, and write out again (before 3.9, which has no unparse: dump)."""
import ast

import sources

write = getattr(ast, "unparse", ast.dump)


def prepare(size):
    return sources.load(size)


def run(texts):
    nodes = length = 0
    for name, text in texts:
        tree = ast.parse(text, name)
        nodes += sum(1 for _ in ast.walk(tree))
        length += len(write(tree))
    return "%d %d" % (nodes, length), None
