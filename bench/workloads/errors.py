"""Exceptions raised through several frames and caught, and pipelines of generators."""


class Refused(Exception):
    def __init__(self, number):
        super().__init__("refused %d" % number)
        self.number = number


def check(number):
    if number % 3 == 0:
        raise Refused(number)
    return number


def through(number, depth):
    if depth == 0:
        return check(number)
    try:
        return through(number, depth - 1)
    except Refused as error:
        if depth == 4:
            raise ValueError(str(error)) from error
        raise


def numbers(size):
    for i in range(size):
        yield i, [i]


def accepted(pairs):
    for number, box in pairs:
        try:
            yield through(number, 5), box
        except ValueError as error:
            yield len(str(error)), box


def prepare(size):
    return size


def run(size):
    total = 0
    for number, box in accepted(numbers(size)):
        total += number + len(box)
    return total, None
