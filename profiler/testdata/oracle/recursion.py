def down(n, acc):
    acc.append([n])
    if n:
        down(n - 1, acc)
    acc.append((n, n))
    return acc
keep(down(60, []))
def fib(n, memo={}):
    if n < 2:
        return n
    if n not in memo:
        memo[n] = fib(n - 1) + fib(n - 2)
    return memo[n] + 10 ** 20
keep([fib(i) for i in range(50)])
def closure(n):
    cells = [n]
    def inner(m):
        cells.append([m])
        return lambda: (cells, m)
    return inner
keep([closure(i)(i + 1) for i in range(200)])
keep(sorted(range(200), key=lambda v: [v % 7, v]))
class Node:
    def __init__(self, d):
        self.kids = [Node(d - 1) for _ in range(2)] if d else []
keep(Node(8))
