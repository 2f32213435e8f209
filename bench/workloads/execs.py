"""Code objects made, run and thrown away, as templates, notebooks and rule engines do. Only for the flatness check."""

SOURCE = """
def rule(x):
    return [x, (x, {0})]
value = rule({0})
"""


def prepare(size):
    return size


def run(size):
    total = 0
    for i in range(size):
        names = {}
        exec(compile(SOURCE.format(i % 97), "<rule>", "exec"), names)
        total += names["value"][1][1]
    return total, None
