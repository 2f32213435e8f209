"""Lark: a grammar of expressions and assignments, parsed to trees and evaluated by a transformer."""
import lark

GRAMMAR = r"""
    start: statement+
    statement: NAME "=" sum ";"
    ?sum: product | sum "+" product -> add | sum "-" product -> sub
    ?product: atom | product "*" atom -> mul
    ?atom: NUMBER -> number | NAME -> name | "-" atom -> neg | "(" sum ")"
    NAME: /[a-z]\w*/
    NUMBER: /\d+/
    %ignore /\s+/
"""


class Evaluate(lark.Transformer):
    def __init__(self):
        super().__init__()
        self.names = {}

    def statement(self, parts):
        self.names[str(parts[0])] = parts[1] % 1000003
        return parts[1]

    def start(self, parts):
        return len(parts)

    def number(self, parts):
        return int(parts[0])

    def name(self, parts):
        return self.names.get(str(parts[0]), 1)

    def neg(self, parts):
        return -parts[0]

    def add(self, parts):
        return parts[0] + parts[1]

    def sub(self, parts):
        return parts[0] - parts[1]

    def mul(self, parts):
        return parts[0] * parts[1]


def prepare(size):
    line = "v%d = (v%d + %d) * v%d - (-%d + v%d * 3);"
    text = "\n".join(line % (i, i - 1, i, i // 2, i % 17, i // 3) for i in range(1, size))
    return text, lark.Lark(GRAMMAR, parser="lalr")


def run(inputs):
    text, parser = inputs
    evaluate = Evaluate()
    statements = evaluate.transform(parser.parse(text))
    return "%d %d" % (statements, sum(evaluate.names.values())), None
