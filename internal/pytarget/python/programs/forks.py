# Forks all the time; every child allocates, computes and must end as it should.
import os

children = 0


def step():
    global children
    wanted = children % 100 + 1
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            items = {str(i): [i] * 3 for i in range(500)}
            code = wanted if sum(item[0] for item in items.values()) == 124750 else 254
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == wanted, (status, wanted)
    children += 1


def check():
    assert children > 0
